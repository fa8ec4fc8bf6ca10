"""Starts, and never asks for a job."""

import time

if __name__ == "__main__":
    time.sleep(600)
