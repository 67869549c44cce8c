"""Decode pictures in child processes that hold no secrets, and may crash without harm to the instance.

    client        in the function: a picture that is decoded elsewhere
    processes     in the function: start the processes, and explain how one ended
    answers       in the function: check what a child answers
    messages      what they exchange: JSON and bytes
    fork_server   a small process that has loaded the decoders, and forks one child per picture
    confinement   what the kernel forbids the child; syscall_filter: its system calls
    worker        in the child: decode, resize and encode one picture

    function ──── "fork" ────▶ fork server ──── fork() ────▶ child: limits, filter, worker
        └───────────────── picture, requests, answers ──────────┘

An answer is as hostile as the picture: a crafted file may have taken over the child. SECURITY.md says what
that gains.
"""
