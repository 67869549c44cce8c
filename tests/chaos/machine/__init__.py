"""The state machine of `make chaos`: rules.py has its rules and invariants, workers.py its workers."""
