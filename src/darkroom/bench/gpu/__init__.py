"""The full-size architecture on one GPU with random weights: speed and memory, which do not depend on their values.

    size.py      full-size and small         variants.py    what is switched on, and how far its output may move
    family.py    random weights, on device   measures.py    one variant: forwards, edits, memory, equality
    flops.py     the work of one forward     parts.py       matrix rate, VAE, a guided step
    clock.py     synchronised seconds        cold_start.py  a packed artifact against from_pretrained
    record.py    JSON after every section    report.py      the same as tables
                                             __main__.py    the sections in order of importance

`python -m darkroom.bench.gpu` needs one NVIDIA GPU and no weights; `--small` runs the same script on the CPU.
"""
