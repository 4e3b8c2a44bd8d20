//! Networks that are cut, and processes that freeze: nothing is stopped, visitors are served.
