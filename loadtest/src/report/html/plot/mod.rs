//! Plots that keep their letters' size whatever the page's width.
//!
//! What has a direction in both coordinates (paths) is drawn in a box of 1000 × 1000 that is stretched over the plot's
//! area; its strokes are not stretched. Marks and lines along an axis lie at shares of the area, and letters are
//! HTML around it. So nothing is drawn twice, or too small on a phone.

mod marks;
mod scale;

use std::fmt::Write;

use maud::{Markup, html};

use self::marks::Label;
pub(super) use self::{
    marks::{key, shapes, share},
    scale::Scale,
};
use super::show::Unit;

/// Side of the box that paths are drawn in.
const BOX: f64 = 1000.0;
/// Ticks along the horizontal axis where there is little room, and where there is more.
const NARROW: usize = 6;
const WIDE: usize = 11;

#[derive(Clone, Copy, Debug)]
pub(super) struct Axis {
    pub(super) scale: Scale,
    pub(super) unit: Unit,
}

/// How a value between two points is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// It is the last point's.
    Step,
    /// There is none: the nearest point is read.
    Nearest,
}

/// How a line looks: its target's colour and dashes.
#[derive(Clone, Debug)]
pub(super) struct Style<'a> {
    /// Its target's place in the report; unset for what is the same for all.
    pub(super) target: Option<usize>,
    pub(super) name: String,
    /// `thin`, `filled`.
    pub(super) class: &'a str,
    pub(super) has_points: bool,
}

#[derive(Debug)]
pub(super) struct Plot {
    id: String,
    title: String,
    /// For those who can't see it.
    pub(super) about: String,
    x: Axis,
    y: Axis,
    y_ticks: Option<Vec<f64>>,
    x_label: &'static str,
    reading: Reading,
    class: &'static str,
    under: Vec<Markup>,
    paths: Vec<Markup>,
    over: Vec<Markup>,
    labels: Vec<Label>,
    legend: Vec<Markup>,
}

impl<'a> Style<'a> {
    pub(super) fn of(target: usize, name: impl Into<String>) -> Self {
        Style { target: Some(target), name: name.into(), class: "", has_points: false }
    }

    /// The same for all targets.
    pub(super) fn common(name: impl Into<String>) -> Self {
        Style { target: None, name: name.into(), class: "common", has_points: false }
    }

    pub(super) fn class(self, class: &'a str) -> Self {
        Style { class, ..self }
    }

    pub(super) fn with_points(self, has_points: bool) -> Self {
        Style { has_points, ..self }
    }

    fn classes(&self) -> String {
        format!("line {} {}", colour(self.target), self.class)
    }
}

/// A target's colour, the same everywhere.
pub(super) fn colour(target: Option<usize>) -> String {
    const COLOURS: usize = 6;
    target.map_or_else(|| "all".to_owned(), |target| format!("t{}", target % COLOURS))
}

impl Plot {
    pub(super) fn new(id: impl Into<String>, title: impl Into<String>, x: Axis, y: Axis) -> Self {
        let (id, title) = (id.into(), title.into());
        Plot {
            about: title.clone(),
            id,
            title,
            x,
            y,
            y_ticks: None,
            x_label: "",
            reading: Reading::Nearest,
            class: "",
            under: Vec::new(),
            paths: Vec::new(),
            over: Vec::new(),
            labels: Vec::new(),
            legend: Vec::new(),
        }
    }

    pub(super) fn reading(mut self, reading: Reading) -> Self {
        self.reading = reading;
        self
    }

    /// `low` for a flatter one.
    pub(super) fn class(mut self, class: &'static str) -> Self {
        self.class = class;
        self
    }

    pub(super) fn x_label(mut self, label: &'static str) -> Self {
        self.x_label = label;
        self
    }

    pub(super) fn y_ticks(mut self, ticks: &[f64]) -> Self {
        self.y_ticks = Some(ticks.to_vec());
        self
    }

    /// A line through each piece.
    pub(super) fn line(&mut self, style: &Style<'_>, pieces: &[Vec<(f64, f64)>]) {
        let mut d = String::new();
        for piece in pieces {
            self.path(&mut d, piece);
        }
        if d.is_empty() {
            return;
        }
        if style.class.contains("filled") {
            let mut area = String::new();
            for piece in pieces {
                let (Some(first), Some(last)) = (piece.first(), piece.last()) else { continue };
                self.path(&mut area, piece);
                let (from, to) = (self.x_of(first.0) * BOX, self.x_of(last.0) * BOX);
                let _ = write!(area, "L{to:.1} {BOX}L{from:.1} {BOX}Z");
            }
            self.paths.push(html! { path.fill.(colour(style.target)) d=(area) {} });
        }
        self.paths.push(html! {
            path.data.(style.classes()) d=(d) data-name=(style.name) {}
        });
        if style.has_points {
            for &(x, y) in pieces.iter().flatten() {
                self.dot(x, y, style.target, if style.class == "thin" { 1.6 } else { 2.4 });
            }
        }
        self.legend(key(style.target, &format!("line {}", style.class), false), &style.name);
    }

    /// A row of the legend.
    pub(super) fn legend(&mut self, key: Markup, name: &str) {
        self.legend.push(html! { li { (key) bdi { (name) } } });
    }

    /// A single point is a line that leads nowhere, so that it is found by whoever reads values off.
    fn path(&self, d: &mut String, points: &[(f64, f64)]) {
        for (place, &(x, y)) in points.iter().enumerate() {
            let letter = if place == 0 { 'M' } else { 'L' };
            let _ = write!(d, "{letter}{:.1} {:.1}", self.x_of(x) * BOX, self.y_of(y) * BOX);
        }
        if let [(x, y)] = points {
            let _ = write!(d, "L{:.1} {:.1}", self.x_of(*x) * BOX, self.y_of(*y) * BOX);
        }
    }

    fn x_of(&self, value: f64) -> f64 {
        self.x.scale.at(value)
    }

    /// From the top.
    fn y_of(&self, value: f64) -> f64 {
        1.0 - self.y.scale.at(value)
    }

    pub(super) fn draw(&self) -> Markup {
        let y_ticks = self.y_ticks.clone().unwrap_or_else(|| self.y.scale.ticks(6));
        let widest = y_ticks.iter().map(|tick| self.y.unit.tick(*tick).chars().count()).max();
        let rows = Label::rows(&self.labels);
        let style = format!(
            "--ys:{}ch;--rows:{}",
            widest.unwrap_or(1),
            rows.iter().max().map_or(0, |row| row + 1)
        );
        let [x0, x1] = [self.x.scale.low(), self.x.scale.high()];
        let [y0, y1] = [self.y.scale.low(), self.y.scale.high()];
        html! {
            figure.plot.(self.class) id=(self.id) {
                figcaption { (self.title) }
                @if !self.legend.is_empty() { ul.legend { @for row in &self.legend { (row) } } }
                div.frame style=(style) {
                    div.strip aria-hidden="true" {
                        @for (label, row) in self.labels.iter().zip(&rows) { (label.draw(*row)) }
                    }
                    div.ys aria-hidden="true" {
                        @for tick in &y_ticks {
                            span style=(at("top", self.y_of(*tick))) { (self.y.unit.tick(*tick)) }
                        }
                    }
                    div.area
                        data-x=(format!("{x0} {x1} {} {}", self.x.scale.is_log(), self.x.unit.name()))
                        data-y=(format!("{y0} {y1} {} {}", self.y.scale.is_log(), self.y.unit.name()))
                        data-reading=(if self.reading == Reading::Step { "step" } else { "nearest" })
                    {
                        svg role="img" aria-label=(self.about) width="100%" height="100%" {
                            (self.grid(&y_ticks))
                            @for mark in &self.under { (mark) }
                            svg viewBox="0 0 1000 1000" preserveAspectRatio="none" width="100%" height="100%" {
                                @for path in &self.paths { (path) }
                            }
                            @for mark in &self.over { (mark) }
                        }
                    }
                    @for (class, most) in [("narrow", NARROW), ("wide", WIDE)] {
                        div.xs.(class) aria-hidden="true" {
                            @for tick in self.x_ticks(most) {
                                span style=(at("left", self.x_of(tick))) { (self.x.unit.tick(tick)) }
                            }
                        }
                    }
                    @if !self.x_label.is_empty() { div.xlabel { (self.x_label) } }
                }
            }
        }
    }

    fn x_ticks(&self, most: usize) -> Vec<f64> {
        self.x.scale.ticks(most)
    }

    fn grid(&self, y_ticks: &[f64]) -> Markup {
        let vertical =
            |most| self.x_ticks(most).into_iter().map(|tick| marks::share(self.x_of(tick)));
        html! {
            g.grid {
                @for y in y_ticks.iter().map(|tick| marks::share(self.y_of(*tick))) {
                    line x1="0" x2="100%" y1=(y) y2=(y) {}
                }
            }
            @for (class, most) in [("narrow", NARROW), ("wide", WIDE)] {
                g.grid.(class) {
                    @for x in vertical(most) { line x1=(x) x2=(x) y1="0" y2="100%" {} }
                }
            }
        }
    }
}

/// A position for CSS.
fn at(side: &str, share: f64) -> String {
    format!("{side}:{}", marks::share(share))
}
