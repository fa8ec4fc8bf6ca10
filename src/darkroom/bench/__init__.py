"""How fast and how dear: an endpoint seen by its clients (latency.py), and the engine (engine.py, where there).

    latency.py   cold and warm jobs, timed            machine.py  where a measurement was made
    report.py    percentiles, dollars, JSON, Markdown  plots.py    the same as pictures
    prices.py    seconds to dollars for a card         compare.py  ratios to an older run
    cpu.py       the engine's whole CPU benchmark      levers.py   each lever alone, the cache, acceleration
    gpu/         the full-size architecture on a GPU   page.py     docs/performance.md from the results
"""
