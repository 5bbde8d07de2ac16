"""What holds for all tests."""

import signal

from hypothesis import HealthCheck, settings

# Shells start background jobs with SIGINT ignored, and their children inherit that: commands under test would not hear
# ctrl-C. A handler of Python's own is reset to the default in whatever is started.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A busy machine is no failure.
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")
