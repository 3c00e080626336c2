//! For the eye: how many requests were how fast.

use plotters::prelude::*;

use super::{Report, millis};
use crate::capacity::Capacity;

/// The drawing library's words.
#[derive(Debug, thiserror::Error)]
#[error("the chart can't be drawn: {0}")]
pub struct ChartError(String);

impl ChartError {
    pub(crate) fn new(words: String) -> Self {
        ChartError(words)
    }
}

const SIZE: (u32, u32) = (960, 420);
/// Points of a curve.
const POINTS: usize = 400;

impl Report {
    /// Shares of requests over time to first token and time per token, with the strictest targets, as
    /// an SVG document.
    pub fn svg(&self) -> Result<String, ChartError> {
        let mut document = String::new();
        self.draw(&mut document).map_err(ChartError)?;
        Ok(document)
    }

    fn draw(&self, document: &mut String) -> Result<(), String> {
        let root = SVGBackend::with_string(document, SIZE).into_drawing_area();
        root.fill(&WHITE).map_err(|error| error.to_string())?;
        let halves = root.split_evenly((1, 2));
        let slos = || self.outcomes.iter().map(|outcome| outcome.slo);
        let ttft = self.outcomes.iter().filter_map(|outcome| outcome.ttft).map(millis).collect();
        let target = slos().filter_map(|slo| slo.ttft).min().map(millis);
        curve(&halves[0], "time to first token, ms", ttft, target)?;
        let tpot = self.outcomes.iter().filter_map(|outcome| outcome.tpot).map(millis).collect();
        let target = slos().filter_map(|slo| slo.tpot).min().map(millis);
        curve(&halves[1], "time per output token, ms", tpot, target)?;
        root.present().map_err(|error| error.to_string())
    }
}

/// A cumulative distribution, its unit on a logarithmic axis, and where the target lies.
fn curve<DB: DrawingBackend>(
    area: &DrawingArea<DB, plotters::coord::Shift>,
    caption: &str,
    mut values: Vec<f64>,
    target: Option<f64>,
) -> Result<(), String> {
    values.sort_by(f64::total_cmp);
    let least = values.first().copied().unwrap_or(1.0).min(target.unwrap_or(f64::MAX)).max(1e-3);
    let most = values.last().copied().unwrap_or(10.0).max(target.unwrap_or(0.0)).max(least * 1.1);
    let x = (least * 0.9..most * 1.1).log_scale();
    let mut chart = ChartBuilder::on(area)
        .caption(caption, ("sans-serif", 18))
        .margin(16)
        .x_label_area_size(32)
        .y_label_area_size(48)
        .build_cartesian_2d(x, 0.0..100.0)
        .map_err(|error| error.to_string())?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .y_desc("% of requests")
        .draw()
        .map_err(|error| error.to_string())?;
    let count = values.len();
    let shown = count.div_ceil(POINTS).max(1);
    let points = values
        .iter()
        .enumerate()
        .filter(|(index, _)| (index + 1) % shown == 0 || index + 1 == count)
        .map(|(index, &value)| (value.max(least), 100.0 * (index + 1) as f64 / count as f64));
    chart
        .draw_series(LineSeries::new(points, BLUE.stroke_width(2)))
        .map_err(|error| error.to_string())?;
    if let Some(target) = target {
        let line = [(target, 0.0), (target, 100.0)];
        chart
            .draw_series(LineSeries::new(line, RED.stroke_width(1)))
            .map_err(|error| error.to_string())?;
    }
    Ok(())
}

impl Capacity {
    /// Attainment over the offered rate, as an SVG document.
    pub fn svg(&self) -> Result<String, ChartError> {
        let mut document = String::new();
        self.draw(&mut document).map_err(ChartError)?;
        Ok(document)
    }

    fn draw(&self, document: &mut String) -> Result<(), String> {
        let root = SVGBackend::with_string(document, (SIZE.0 / 2, SIZE.1)).into_drawing_area();
        root.fill(&WHITE).map_err(|error| error.to_string())?;
        let most = self.tried.last().map_or(1.0, |&(rate, _)| rate);
        let mut chart = ChartBuilder::on(&root)
            .caption("attainment over offered rate", ("sans-serif", 18))
            .margin(16)
            .x_label_area_size(40)
            .y_label_area_size(48)
            .build_cartesian_2d(0.0..most * 1.05, 0.0..100.0)
            .map_err(|error| error.to_string())?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .x_desc("requests/s")
            .y_desc("% of requests")
            .draw()
            .map_err(|error| error.to_string())?;
        let points = self.tried.iter().map(|&(rate, share)| (rate, 100.0 * share));
        chart
            .draw_series(points.map(|point| Circle::new(point, 3, BLUE.filled())))
            .map_err(|error| error.to_string())?;
        let line = [(self.rate.mean, 0.0), (self.rate.mean, 100.0)];
        chart
            .draw_series(LineSeries::new(line, RED.stroke_width(1)))
            .map_err(|error| error.to_string())?;
        root.present().map_err(|error| error.to_string())
    }
}
