"""What holds for all tests."""

from hypothesis import HealthCheck, settings

# How long an example takes says how busy the machine is, not whether the code is right.
settings.register_profile(
    "beamline", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True,
    max_examples=40,
)  # fmt: skip
settings.register_profile("thorough", settings.get_profile("beamline"), max_examples=400)
settings.load_profile("beamline")
