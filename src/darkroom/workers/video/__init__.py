"""Parts of the recipe `video_edit`: what frames are made from, what steers and measures them, what is handed out."""
