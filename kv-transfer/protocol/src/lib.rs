//! baton-transfer-protocol
