use super::*;

fn load(toml: &str, environment: &[(&str, &str)], set: &[&str]) -> Result<NodeConfig, String> {
    let file = TempFile::new(toml);
    let flags = NodeFlags {
        config: Some(file.0.clone()),
        set: set.iter().map(|pair| (*pair).to_owned()).collect(),
        ..NodeFlags::default()
    };
    let environment = environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
    flags.load(environment).map_err(|error| error.to_string())
}

struct TempFile(PathBuf);

impl TempFile {
    fn new(text: &str) -> Self {
        let name = format!("baton-config-{:016x}.toml", rand::random::<u64>());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, text).unwrap();
        TempFile(path)
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

const SIM: &str = "[engine]
kind = \"sim\"
layout = { layers = 2, kv_heads = 1, head_dim = 4, block_tokens = 16, dtype = \"f16\" }
";

#[test]
fn later_sources_win_over_earlier_ones() {
    let toml = format!("name = \"file\"\ndrain = \"5s\"\n{SIM}");
    let environment = [("BATON_NODE_NAME", "env"), ("BATON_NODE_LISTEN__CONTROL_PORT", "7000")];
    let config = load(&toml, &environment, &["name=flag"]).unwrap();
    assert_eq!(config.name.as_deref(), Some("flag"));
    assert_eq!(config.listen.control_port, 7000);
    assert_eq!(config.drain, Span::from_secs(5));
}

#[test]
fn a_printed_configuration_reads_back_the_same() {
    let llama = "name = \"p\"\n[engine]\nkind = \"llama\"\nmodel = \"/m.gguf\"\nisa = \"avx2\"\n\
                 [kv]\nsize = \"1GiB\"\n";
    for toml in [SIM, llama] {
        let config = load(toml, &[], &[]).unwrap();
        let printed = to_toml(&config).unwrap();
        assert_eq!(load(&printed, &[], &[]), Ok(config), "{printed}");
    }
}

#[test]
fn bad_values_are_refused_by_key_and_value() {
    let table: &[(&str, &[&str])] = &[
        ("listen.port=1", &["unknown field", "port", "listen"]),
        ("colour=1", &["unknown field", "colour"]),
        ("engine.speed=1", &["unknown field", "speed", "engine"]),
        ("engine.kind=tpu", &["tpu", "engine"]),
        ("listen.control_port=70000", &["listen.control_port", "70000"]),
        ("listen.host=nowhere", &["listen.host", "nowhere"]),
        ("listen.host=0.0.0.0", &["listen.host", "0.0.0.0", "listen.advertise"]),
        ("drain=soon", &["drain", "soon"]),
        ("drain=5", &["drain", "5", "unit"]),
        ("kv.size=1GB", &["kv.size", "1GB"]),
        ("kv.blocks=0", &["kv.blocks = 0"]),
        ("name=a b", &["name = a b"]),
        ("routers=[\"localhost\"]", &["routers = localhost", "http://host:port"]),
        ("scheduler.max_running=0", &["scheduler.max_running = 0"]),
        ("transfer.lease=1ms", &["transfer.lease = 1ms"]),
        ("engine.layout.block_tokens=24", &["engine.layout", "24 tokens"]),
        ("engine.profile.speed=1.0", &["unknown field", "speed", "engine"]),
        ("nothing", &["KEY=VALUE", "nothing"]),
    ];
    for (set, expected) in table {
        let error = load(SIM, &[], &[set]).expect_err(set);
        for word in *expected {
            assert!(error.contains(word), "{set}: {error:?} lacks {word:?}");
        }
    }
}

#[test]
fn errors_name_the_variable_a_bad_value_came_from() {
    let error = load(SIM, &[("BATON_NODE_LISTEN__DATA_PORT", "x")], &[]).unwrap_err();
    assert!(error.contains("BATON_NODE_LISTEN__DATA_PORT"), "{error}");
}

#[test]
fn an_engine_must_be_chosen_and_a_missing_file_is_named() {
    assert!(load("", &[], &[]).unwrap_err().contains("engine"));
    let flags = NodeFlags { config: Some("/no/such.toml".into()), ..NodeFlags::default() };
    assert!(flags.load([]).unwrap_err().to_string().contains("/no/such.toml"));
}

#[test]
fn a_bad_llama_section_is_refused() {
    let llama = "[engine]\nkind = \"llama\"\nmodel = \"/m.gguf\"\n";
    for (set, expected) in [
        ("engine.block_tokens=24", "engine.block_tokens = 24"),
        ("engine.threads=0", "engine.threads = 0"),
        ("engine.isa=sse9", "sse9"),
        ("engine.kv_dtype=q8", "q8"),
    ] {
        let error = load(llama, &[], &[set]).expect_err(set);
        assert!(error.contains(expected), "{set}: {error:?}");
    }
}

#[test]
fn names_default_to_the_role_and_the_model_file() {
    let mut config = NodeConfig::new(EngineConfig::Sim(SimConfig::default()));
    assert_eq!(config.name_or(Role::Decode, 0x00ab), "decode-00ab");
    assert_eq!(config.model_name(), "sim");
    config.name = Some("d1".into());
    assert_eq!(config.name_or(Role::Decode, 1), "d1");
    for (path, name) in [
        ("/m/Tiny-1.5B.Q4_K.gguf", "Tiny-1.5B.Q4_K"),
        ("/m/Tiny-1.5B", "Tiny-1.5B"),
        ("/m/Tiny-1.5B/", "Tiny-1.5B"),
    ] {
        let toml = format!("[engine]\nkind = \"llama\"\nmodel = \"{path}\"\n");
        assert_eq!(load(&toml, &[], &[]).expect(path).model_name(), name);
    }
}

#[test]
fn an_etcd_that_must_prove_itself_needs_somebody_to_be_proved_by() {
    let given = |ca_file| RegistryConfig {
        etcd: vec!["http://e:2379".into(), "https://f:2379".into()],
        ca_file,
        ..RegistryConfig::default()
    };
    let error = given(None).options().unwrap_err().to_string();
    assert!(error.contains("https://f:2379") && error.contains("ca_file"), "{error}");
    assert!(given(Some("/ca.pem".into())).options().is_ok());
}

#[test]
fn kubernetes_is_a_service_with_names_and_excludes_etcd() {
    let sim = SIM;
    let config = load(sim, &[], &["registry.kubernetes={service=\"baton-router\"}"]).unwrap();
    let kubernetes = config.registry.kubernetes.as_ref().unwrap();
    assert_eq!(
        (kubernetes.service.as_str(), kubernetes.port.as_str()),
        ("baton-router", "control")
    );
    assert!(to_toml(&config).unwrap().contains("[registry.kubernetes]"));

    let service = "registry.kubernetes.service=\"r\"";
    for (set, expected) in [
        (
            &["registry.etcd=[\"http://e:1\"]"][..],
            &["registry.kubernetes = r", "\"http://e:1\"", "set one"][..],
        ),
        (&["registry.lease=\"1s\""], &["registry.lease = 1s", "2s"]),
        (&["registry.kubernetes.port=\"8001:tcp\""], &["port", "8001:tcp", "1 to 15"]),
        (&["registry.kubernetes.namespace=\"\""], &["namespace", "\"\"", "1 to 63"]),
        (&["registry.kubernetes.service=\"Router\""], &["service", "Router", "a-z"]),
        (&["registry.kubernetes.service=\"r-\""], &["service", "r-"]),
        (&["registry.kubernetes.name=\"r\""], &["name"]),
    ] {
        let error = load(sim, &[], &[&[service], set].concat()).expect_err(set[0]);
        assert!(expected.iter().all(|part| error.contains(part)), "{set:?}: {error}");
    }
}
