//! What each machine does by itself.

use std::time::Duration;

use baton_migration::{Destination, DestinationConfig, DestinationOrder, FromDestination};
use baton_types::{Epoch, RouterId, Time};

/// A router that is gone says nothing, and a source that is gone sends nothing.
#[test]
fn a_destination_gives_up_when_the_pages_never_come() {
    let config = DestinationConfig::default();
    let mut destination = Destination::new(config, Time::ZERO, Epoch::first(RouterId(1)));
    assert_eq!(destination.poll_order(), Some(DestinationOrder::Pull));
    let due = destination.poll_timeout().expect("a limit");
    assert_eq!(due, Time::ZERO + config.attempt);
    destination.handle_timeout(due + Duration::from_nanos(1));
    let gone = DestinationOrder::Tell(FromDestination::Gone);
    assert_eq!(destination.poll_order(), Some(DestinationOrder::Abandon));
    assert_eq!(destination.poll_order(), Some(gone));
    assert!(destination.is_over());
}
