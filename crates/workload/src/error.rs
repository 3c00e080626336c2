/// Why nothing can be drawn or replayed as it is described.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum WorkloadError {
    #[error("{name} is {given}; it must be {must}")]
    Value { name: &'static str, given: f64, must: &'static str },
    #[error("the list of {name} lengths is empty; give at least one")]
    NoLengths { name: &'static str },
    #[error("the trace has no requests")]
    EmptyTrace,
    #[error(
        "all {requests} requests of the trace came at the same time: they have no rate that could \
         be scaled to {wanted} requests/s; leave the trace's rate out"
    )]
    NoRate { requests: usize, wanted: f64 },
}
