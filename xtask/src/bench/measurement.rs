//! What was measured, over several rounds, and against what.

use std::fmt::Write;

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};

/// One measured quantity; more is better, unless its unit is a time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Measurement {
    name: String,
    value: f64,
    unit: String,
    /// What it is compared with, measured in the same run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    anchor: Option<String>,
    /// Its value divided by the anchor's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ratio: Option<f64>,
}

impl Measurement {
    pub(crate) fn new(name: &str, value: f64, unit: &str) -> Self {
        Measurement { name: name.into(), value, unit: unit.into(), anchor: None, ratio: None }
    }

    pub(crate) fn renamed(mut self, prefix: &str) -> Self {
        self.name.insert_str(0, prefix);
        self
    }
}

/// Of the one with this name.
pub(crate) fn value(of: &[Measurement], name: &str) -> Option<f64> {
    of.iter().find(|m| m.name == name).map(|m| m.value)
}

/// Reads measurements: lines that are a JSON object or an array of them. Other lines are for
/// people.
pub(crate) fn parse(text: &str) -> anyhow::Result<Vec<Measurement>> {
    let mut found: Vec<Measurement> = Vec::new();
    for line in text.lines().map(str::trim) {
        match line.as_bytes().first() {
            Some(b'[') => {
                found.extend(serde_json::from_str::<Vec<_>>(line).with_context(|| line.to_owned())?)
            }
            Some(b'{') => found.push(serde_json::from_str(line).with_context(|| line.to_owned())?),
            _ => {}
        }
    }
    ensure!(!found.is_empty(), "no measurement in it");
    ensure!(found.iter().all(|m| m.value.is_finite()), "a measurement is no number");
    Ok(found)
}

/// `ours`, each compared with the one of `theirs` that has the same name and unit.
pub(crate) fn anchored(
    ours: Vec<Measurement>,
    theirs: &[Measurement],
    anchor: &str,
) -> Vec<Measurement> {
    let compare = |mut our: Measurement| {
        let their = theirs.iter().find(|m| m.name == our.name && m.unit == our.unit);
        if let Some(their) = their {
            our.anchor = Some(format!("{anchor} {}", their.name));
            our.ratio = Some(our.value / their.value);
        }
        our
    };
    ours.into_iter().map(compare).collect()
}

/// The same measurements, again and again.
#[derive(Debug, Default)]
pub(crate) struct Rounds {
    all: Vec<Vec<Measurement>>,
}

impl Rounds {
    pub(crate) fn add(&mut self, measurements: Vec<Measurement>) {
        for measurement in measurements {
            match self.all.iter_mut().find(|series| series[0].name == measurement.name) {
                Some(series) => series.push(measurement),
                None => self.all.push(vec![measurement]),
            }
        }
    }

    /// The median value of each, and the median of the ratios, which were formed round by round.
    pub(crate) fn medians(&self) -> Vec<Measurement> {
        let one = |series: &Vec<Measurement>| {
            let ratios: Vec<f64> = series.iter().filter_map(|m| m.ratio).collect();
            Measurement {
                value: median(series.iter().map(|m| m.value).collect()).unwrap_or(f64::NAN),
                ratio: median(ratios),
                ..series[0].clone()
            }
        };
        self.all.iter().map(one).collect()
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    match (values.len(), values.len() / 2) {
        (0, _) => None,
        (len, middle) if len % 2 == 1 => Some(values[middle]),
        (_, middle) => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}

pub(crate) fn table(measurements: &[Measurement]) -> String {
    let width = measurements.iter().map(|m| m.name.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for m in measurements {
        let _ = write!(text, "{:<width$}  {:>10.2} {:<6}", m.name, m.value, m.unit);
        if let (Some(ratio), Some(anchor)) = (m.ratio, &m.anchor) {
            let _ = write!(text, "  {ratio:.2} × {anchor}");
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(name: &str, value: f64) -> Measurement {
        Measurement::new(name, value, "tok/s")
    }

    #[test]
    fn lines_of_json_are_read_and_nonsense_is_refused() {
        let object = r#"{"name": "decode_1", "value": 48.0, "unit": "tok/s"}"#;
        let text = format!("warming up\n{object}\n[{object}, {object}]\n");
        assert_eq!(parse(&text).unwrap(), vec![measured("decode_1", 48.0); 3]);
        assert!(parse("{\"name\": 1}").is_err());
        assert!(parse("nothing").is_err());
    }

    #[test]
    fn ratios_are_formed_inside_a_round_and_their_median_is_told() {
        let mut rounds = Rounds::default();
        for (ours, theirs) in [(40.0, 10.0), (60.0, 20.0), (50.0, 25.0)] {
            let ours = vec![measured("decode_1", ours)];
            rounds.add(anchored(ours, &[measured("decode_1", theirs)], "candle"));
        }
        let [decode] = &rounds.medians()[..] else { panic!("one series") };
        assert_eq!((decode.value, decode.ratio), (50.0, Some(3.0)));
        assert_eq!(decode.anchor.as_deref(), Some("candle decode_1"));
    }
}
