"""The RunPod worker: `python handler.py`, also with `--test_input '{"input": …}'` or `--rp_serve_api`."""

from darkroom.settings import Settings


def main() -> None:
    """Read the settings before the hub libraries are imported, which look for theirs at import."""
    settings = Settings()
    settings.export_hub_environment()
    from darkroom.edge import start

    start(settings)


# The SDK's heartbeat is a process of its own: under spawn it imports this file again, and must not start twice.
if __name__ == "__main__":
    main()
