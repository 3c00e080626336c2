//! Baton's own Python client: its tests start clusters of the binary under test, and kill and stop their parts.
//! `cargo xtask test` brings what they need.

use baton_tests::python_tests;

#[test]
fn the_python_client_passes_its_tests() {
    python_tests("client/python/tests");
}
