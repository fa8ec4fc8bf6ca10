"""Bytes to pixels and back: pictures, archives of them, video, and the sheets and plots that people look at."""

from darkroom.media.archive import ZipPictures
from darkroom.media.edges import edge_map
from darkroom.media.identities import PeopleArchive, Person, centre_crop
from darkroom.media.pictures import (
    ACCEPTED,
    MAX_ASPECT,
    MIN_SIDE,
    OutputFormat,
    Picture,
    decode_image,
    encode_image,
    labelled_grid,
    side_by_side,
    to_tensor,
    to_uint8,
)
from darkroom.media.video import Video, is_video, write_mp4

__all__ = [
    "ACCEPTED",
    "MAX_ASPECT",
    "MIN_SIDE",
    "OutputFormat",
    "PeopleArchive",
    "Person",
    "Picture",
    "Video",
    "ZipPictures",
    "centre_crop",
    "decode_image",
    "edge_map",
    "encode_image",
    "is_video",
    "labelled_grid",
    "side_by_side",
    "to_tensor",
    "to_uint8",
    "write_mp4",
]
