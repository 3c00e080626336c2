//! For the eye: what the configurations cost and how much they could take.

use plotters::prelude::*;

use super::{Configuration, Plan};
use crate::report::ChartError;

const SIZE: (u32, u32) = (1180, 480);
/// Of this, the diagram's; beside it stands what its numbers mean.
const DIAGRAM_WIDTH: u32 = 720;
const LINE_HEIGHT: i32 = 22;

impl Plan {
    /// Price over capacity of each configuration, numbered from the plan's, which is blue, and the rate
    /// that was asked for, as an SVG document.
    pub fn svg(&self) -> Result<String, ChartError> {
        let mut document = String::new();
        self.draw(&mut document).map_err(ChartError::new)?;
        Ok(document)
    }

    fn draw(&self, document: &mut String) -> Result<(), String> {
        let root = SVGBackend::with_string(document, SIZE).into_drawing_area();
        root.fill(&WHITE).map_err(|error| error.to_string())?;
        let (diagram, beside) = root.split_horizontally(DIAGRAM_WIDTH);
        let most = |value: &dyn Fn(&Configuration) -> f64, least: f64| {
            1.2 * self.configurations.iter().map(value).fold(least, f64::max)
        };
        let widest = most(&|configuration| configuration.capacity, self.rate);
        let dearest = most(&|configuration| configuration.price_per_hour, 0.1);
        let caption = format!("{}: clusters for {} requests/s", self.model, self.rate);
        let mut chart = ChartBuilder::on(&diagram)
            .caption(caption, ("sans-serif", 18))
            .margin(16)
            .x_label_area_size(40)
            .y_label_area_size(56)
            .build_cartesian_2d(0.0..widest, 0.0..dearest)
            .map_err(|error| error.to_string())?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .x_desc("capacity, requests/s (the red line: asked for)")
            .y_desc("price per hour")
            .draw()
            .map_err(|error| error.to_string())?;
        let line = [(self.rate, 0.0), (self.rate, dearest)];
        chart
            .draw_series(LineSeries::new(line, RED.stroke_width(1)))
            .map_err(|error| error.to_string())?;
        for (point, numbers) in self.points() {
            let colour = if numbers.starts_with('1') { BLUE } else { BLACK };
            let label = Text::new(numbers, (7, -14), ("sans-serif", 13));
            let dot = EmptyElement::at(point) + Circle::new((0, 0), 4, colour.filled()) + label;
            chart.draw_series([dot]).map_err(|error| error.to_string())?;
        }
        for (index, configuration) in self.configurations.iter().enumerate() {
            let text = format!(
                "({}) {configuration}: {:.2} per hour",
                index + 1,
                configuration.price_per_hour
            );
            let at = (0, 60 + LINE_HEIGHT * index as i32);
            let line = Text::new(text, at, ("sans-serif", 12));
            beside.draw(&line).map_err(|error| error.to_string())?;
        }
        root.present().map_err(|error| error.to_string())
    }

    /// Capacity and price, and the numbers of the configurations that have both.
    fn points(&self) -> Vec<((f64, f64), String)> {
        let mut points: Vec<((f64, f64), String)> = Vec::new();
        for (index, configuration) in self.configurations.iter().enumerate() {
            let point = (configuration.capacity, configuration.price_per_hour);
            let number = (index + 1).to_string();
            match points.iter_mut().find(|(other, _)| *other == point) {
                Some((_, numbers)) => *numbers = format!("{numbers}, {number}"),
                None => points.push((point, number)),
            }
        }
        points
    }
}
