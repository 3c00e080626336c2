//! baton-node
