//! Page transfer over loopback against a plain socket copy of the same bytes with as many streams,
//! both between cold buffers, alternating; prints the medians as JSON.
#![allow(clippy::print_stdout, clippy::disallowed_methods)]

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::Arc,
    thread,
    time::Instant,
};

use baton_device::Arena;
use baton_kv_cache::KvCache;
use baton_kv_transfer::{
    Exporter, ExporterConfig, FirstToken, Importer, ImporterConfig, Offer, PeerIdentity, Pull,
};
use baton_types::{
    Capability, ChoiceIndex, Epoch, Generation, KvDtype, KvLayout, NumericsId, RequestId, Role,
    RouterId, SequenceKey, TokenId,
};

/// SmolLM2-135M's pages.
const LAYOUT: KvLayout =
    KvLayout { layers: 30, kv_heads: 3, head_dim: 64, block_tokens: 16, dtype: KvDtype::F16 };
/// 256 MiB and a little.
const BLOCKS: u32 = 729;
const STREAMS: usize = 2;
const ROUNDS: usize = 7;

fn main() {
    let bytes = BLOCKS as usize * LAYOUT.block_bytes();
    let (mut ours, mut plain) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        ours.push(transfer() / 1e9);
        plain.push(socket_copy(bytes) / 1e9);
    }
    let (ours, plain) = (median(ours), median(plain));
    println!(
        r#"[{{"name":"page_transfer","value":{ours:.3},"unit":"GB/s","anchor":"plain socket copy, {plain:.3} GB/s","ratio":{:.3}}}]"#,
        ours / plain
    );
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Bytes a second of one hand-over between two arenas never touched before.
fn transfer() -> f64 {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let arena = || Arc::new(Arena::new(LAYOUT, BLOCKS).expect("memory"));
        let (from, to) = (arena(), arena());
        let caches = [(); 2].map(|()| KvCache::new(BLOCKS, LAYOUT.block_tokens));
        let [source, sink] = caches.each_ref().map(|c| c.reserve(BLOCKS as usize).expect("room"));
        for layer in 0..LAYOUT.layers {
            for block in &source {
                from.write(layer, block.id()).expect("nobody else").fill(layer as u8);
            }
        }
        let identity = |name: &str, role| PeerIdentity {
            node: name.into(),
            generation: Generation(1),
            role,
            numerics: NumericsId(1),
            layout: LAYOUT,
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound").to_string();
        let (p, d) = (identity("p", Role::Prefill), identity("d", Role::Decode));
        let exporter = Exporter::start(listener, from, p, ExporterConfig::default());
        let config = ImporterConfig { streams: STREAMS as u32, ..ImporterConfig::default() };
        let importer = Importer::new(to, d, config);
        let key = SequenceKey { request: RequestId(1), choice: ChoiceIndex(0) };
        let epoch = Epoch::first(RouterId(1));
        let (capability, tokens) = (Capability(1), BLOCKS * LAYOUT.block_tokens);
        let offer = Offer { key, epoch, capability, blocks: source, tokens };
        let offered = exporter.offer(offer).expect("offered");
        offered.finish(FirstToken { token: TokenId(0), logits_digest: 0 });
        let pull = Pull {
            key,
            epoch,
            capability,
            address,
            node: "p".into(),
            generation: Generation(1),
            skip_blocks: 0,
            blocks: sink,
            tokens,
        };
        let begin = Instant::now();
        let pulled = importer.pull(pull).await.expect("pulled");
        pulled.bytes as f64 / begin.elapsed().as_secs_f64()
    })
}

/// Bytes a second of as many blocking streams copying from one buffer to another.
fn socket_copy(bytes: usize) -> f64 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    let share = bytes / STREAMS;
    let from: Vec<Vec<u8>> = (0..STREAMS).map(|i| vec![i as u8 + 1; share]).collect();
    let pairs: Vec<_> = from
        .into_iter()
        .map(|buffer| {
            let near = TcpStream::connect(address).expect("connected");
            (buffer, near, listener.accept().expect("accepted").0)
        })
        .collect();
    let begin = Instant::now();
    thread::scope(|scope| {
        for (buffer, mut near, mut far) in pairs {
            scope.spawn(move || near.write_all(&buffer).expect("written"));
            scope.spawn(move || {
                let mut to = vec![0; share];
                far.read_exact(&mut to).expect("read");
                std::hint::black_box(to);
            });
        }
    });
    bytes as f64 / begin.elapsed().as_secs_f64()
}
