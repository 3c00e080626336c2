//! The device profiles that come with Baton.

use std::path::Path;

use baton_sim::plan::{
    DeviceProfile,
    roofline::{Sourced, catalogue},
};

fn document(sourced: &Sourced) -> String {
    let comment: String =
        sourced.comment.lines().map(|line| format!("# {}\n", line.trim())).collect();
    format!("{comment}\n{}", toml::to_string(&sourced.profile).expect("TOML"))
}

/// Write them anew: `BATON_WRITE_PROFILES=1 cargo nextest run -p baton-sim -E 'test(profiles)'`.
#[test]
fn the_committed_profiles_are_what_the_roofline_computes() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/profiles");
    let write = std::env::var_os("BATON_WRITE_PROFILES").is_some();
    let mut files = Vec::new();
    for sourced in catalogue() {
        let path = folder.join(format!("{}.toml", sourced.file));
        if write {
            std::fs::write(&path, document(&sourced)).unwrap();
        }
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, document(&sourced), "{}", path.display());
        let read: DeviceProfile = toml::from_str(&text).unwrap();
        assert_eq!(read, sourced.profile);
        read.validate().unwrap();
        files.push(path.file_name().unwrap().to_owned());
    }
    for entry in std::fs::read_dir(folder).unwrap() {
        let name = entry.unwrap().file_name();
        assert!(files.contains(&name), "{name:?} is in the folder, but nothing computes it");
    }
}

#[track_caller]
fn refused(change: impl FnOnce(&mut DeviceProfile), told: &[&str]) {
    let mut profile = catalogue().remove(1).profile;
    change(&mut profile);
    let error = profile.validate().expect_err("an impossible profile").to_string();
    for part in told {
        assert!(error.contains(part), "{error:?} doesn't tell {part:?}");
    }
}

#[test]
fn impossible_profiles_are_refused_with_key_and_value() {
    refused(
        |p| p.parallelism[0].decode_us = -3.0,
        &["tensor = 1", "decode_us is -3", "at least 0"],
    );
    refused(|p| p.parallelism[0].prefill_token_us = f64::NAN, &["prefill_token_us is NaN"]);
    refused(|p| p.parallelism[0].prefill_us = 0.0, &["prefill_us is 0", "at least 1 µs"]);
    refused(|p| p.parallelism[0].tensor = 0, &["parallelism.tensor is 0"]);
    refused(|p| p.parallelism[1].tensor = 1, &["tensor = 1 twice"]);
    refused(|p| p.parallelism.clear(), &["parallelism is empty"]);
    refused(|p| p.device.price_per_hour = -1.0, &["device.price_per_hour is -1", "above 0"]);
    refused(|p| p.device.link_bytes_per_second = 0.0, &["link_bytes_per_second is 0"]);
    refused(|p| p.device.name.clear(), &["device.name is empty"]);
    refused(|p| p.model.kv_heads = 0, &["kv_heads = 0"]);
    refused(|p| p.model.max_context = 1, &["model.max_context is 1"]);
    refused(|p| p.scheduler.chunk_tokens = 0, &["scheduler.chunk_tokens is 0"]);
    refused(
        |p| p.model.weights_bytes = 90_000_000_000,
        &["weights_bytes is 90000000000", "memory_bytes = 80000000000", "tensor = 1"],
    );
}

#[test]
fn unknown_and_missing_keys_are_refused() {
    let profile = catalogue().remove(0).profile;
    let text = toml::to_string(&profile).unwrap();
    let error = |text: &str| toml::from_str::<DeviceProfile>(text).unwrap_err().to_string();
    assert!(error(&text.replace("decode_us", "decode_ms")).contains("unknown field `decode_ms`"));
    let without: String = text
        .lines()
        .filter(|line| !line.starts_with("decode_us"))
        .map(|l| format!("{l}\n"))
        .collect();
    assert!(error(&without).contains("missing field `decode_us`"));
}
