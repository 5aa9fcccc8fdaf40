//! The only way out of the process: deadline, bulkhead, rate, breaker, retry budget.

/// Stands before a target.
#[derive(Debug)]
pub struct Guard {}
