//! The caller's trace, as its OpenTelemetry propagator writes it.

use opentelemetry::{Context, global, propagation::Injector};
use tonic::metadata::{MetadataKey, MetadataMap};

struct Headers<'a>(&'a mut MetadataMap);

impl Injector for Headers<'_> {
    fn set(&mut self, key: &str, value: String) {
        if let (Ok(key), Ok(value)) = (MetadataKey::from_bytes(key.as_bytes()), value.parse()) {
            self.0.insert(key, value);
        }
    }
}

pub(crate) fn inject(metadata: &mut MetadataMap) {
    let context = Context::current();
    global::get_text_map_propagator(|propagator| {
        propagator.inject_context(&context, &mut Headers(metadata));
    });
}
