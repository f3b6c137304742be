"""Values of request headers that no client should send."""

ODD_VALUES = (
    b"",
    b"\xff\xfe",
    b"a" * 5000,
    b"{}",
    b"1e999",
    b"-1",
    b"nan",
    b"0" * 400,
    b"00-" + b"f" * 32 + b"-" + b"f" * 16 + b"-ff",
)
