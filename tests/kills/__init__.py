"""Runs that are killed at random moments and started again, compared with runs that were never disturbed.

python -m tests.kills                        100 kills, over all experiments in turn
python -m tests.kills --only=datm --count=5  five of one experiment
python -m tests.kills --two                  two runs in one directory at the same time
"""
