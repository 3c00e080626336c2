use super::*;

const LEASE: Duration = Duration::from_secs(5);

fn at(seconds: u64) -> Time {
    Time::from_nanos(seconds * 1_000_000_000)
}

/// Names, versions and what comes to them for the model m.
fn words(said: &[(&str, u32, f64)]) -> BTreeMap<String, Word> {
    let word = |&(name, version, rate): &(&str, u32, f64)| {
        let rates = Rates::from([("m".into(), rate)]);
        (name.to_owned(), Word { version: version.to_string(), rates, lease: LEASE })
    };
    said.iter().map(word).collect()
}

fn elsewhere(words: &Words) -> f64 {
    words.elsewhere().values().sum()
}

#[test]
fn a_word_counts_for_a_lease_in_which_own_words_come_back() {
    let mut heard = Words::new("own".into());
    heard.hear(at(0), true, words(&[("own", 1, 9.0), ("a", 1, 2.0), ("b", 1, 1.0)]));
    assert_eq!(elsewhere(&heard), 3.0, "without one's own");
    heard.hear(at(4), false, words(&[("own", 2, 9.0), ("a", 2, 4.0), ("b", 1, 1.0)]));
    assert_eq!(elsewhere(&heard), 5.0);
    heard.hear(at(5), false, words(&[("own", 3, 9.0), ("a", 2, 4.0), ("b", 1, 1.0)]));
    assert_eq!(elsewhere(&heard), 4.0, "b said nothing for a lease");
    heard.hear(at(6), false, words(&[("own", 3, 9.0), ("a", 2, 4.0), ("b", 2, 7.0)]));
    assert_eq!(elsewhere(&heard), 11.0, "and is back");
}

#[test]
fn while_nothing_is_heard_words_stay_and_after_a_new_beginning_they_have_time_again() {
    let mut heard = Words::new("own".into());
    heard.hear(at(0), true, words(&[("own", 1, 9.0), ("a", 1, 2.0)]));
    heard.hear(at(60), false, words(&[("own", 1, 9.0), ("a", 1, 2.0), ("b", 1, 1.0)]));
    assert_eq!(elsewhere(&heard), 3.0, "the own word didn't come back");
    heard.hear(at(90), true, words(&[("own", 2, 9.0), ("a", 1, 2.0)]));
    assert_eq!(elsewhere(&heard), 2.0);
    heard.hear(at(94), false, words(&[("own", 3, 9.0), ("a", 1, 2.0)]));
    assert_eq!(elsewhere(&heard), 2.0);
    heard.hear(at(95), false, words(&[("own", 4, 9.0), ("a", 1, 2.0)]));
    assert_eq!(elsewhere(&heard), 0.0);
}

#[test]
fn who_says_nothing_for_three_leases_is_dead() {
    let mut heard = Words::new("own".into());
    heard.hear(at(0), true, words(&[("own", 1, 9.0), ("a", 1, 2.0)]));
    heard.hear(at(14), false, words(&[("own", 2, 9.0), ("a", 1, 2.0)]));
    assert_eq!(heard.dead().count(), 0);
    heard.hear(at(15), false, words(&[("own", 3, 9.0), ("a", 1, 2.0)]));
    assert_eq!(heard.dead().collect::<Vec<_>>(), [("a", "1")]);
    heard.hear(at(16), false, words(&[("own", 4, 9.0)]));
    assert_eq!(heard.dead().count(), 0, "it was taken away");
}
