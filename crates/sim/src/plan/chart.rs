//! For the eye: what the configurations cost and how much they could take.

use plotters::prelude::*;

use super::Plan;
use crate::report::ChartError;

const SIZE: (u32, u32) = (960, 480);

impl Plan {
    /// Price over capacity of each configuration, the plan's in blue, and the rate that was asked for,
    /// as an SVG document.
    pub fn svg(&self) -> Result<String, ChartError> {
        let mut document = String::new();
        self.draw(&mut document).map_err(ChartError::new)?;
        Ok(document)
    }

    fn draw(&self, document: &mut String) -> Result<(), String> {
        let root = SVGBackend::with_string(document, SIZE).into_drawing_area();
        root.fill(&WHITE).map_err(|error| error.to_string())?;
        let most = |value: &dyn Fn(&super::Configuration) -> f64, least: f64| {
            1.2 * self.configurations.iter().map(value).fold(least, f64::max)
        };
        let widest = most(&|configuration| configuration.capacity, self.rate);
        let dearest = most(&|configuration| configuration.price_per_hour, 0.1);
        let caption = format!("{}: clusters for {} requests/s", self.model, self.rate);
        let mut chart = ChartBuilder::on(&root)
            .caption(caption, ("sans-serif", 18))
            .margin(16)
            .x_label_area_size(40)
            .y_label_area_size(56)
            .build_cartesian_2d(0.0..widest * 1.4, 0.0..dearest)
            .map_err(|error| error.to_string())?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .x_desc("capacity, requests/s")
            .y_desc("price an hour")
            .draw()
            .map_err(|error| error.to_string())?;
        for (index, configuration) in self.configurations.iter().enumerate() {
            let point = (configuration.capacity, configuration.price_per_hour);
            let colour = if index == 0 { BLUE } else { BLACK };
            let label = Text::new(configuration.to_string(), (8, -6), ("sans-serif", 12));
            let dot = EmptyElement::at(point) + Circle::new((0, 0), 4, colour.filled()) + label;
            chart.draw_series([dot]).map_err(|error| error.to_string())?;
        }
        let line = [(self.rate, 0.0), (self.rate, dearest)];
        chart
            .draw_series(LineSeries::new(line, RED.stroke_width(1)))
            .map_err(|error| error.to_string())?;
        root.present().map_err(|error| error.to_string())
    }
}
