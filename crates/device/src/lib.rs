//! baton-device
