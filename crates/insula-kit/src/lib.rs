//! Process plumbing without domain: configuration, telemetry, shutdown, clock.
