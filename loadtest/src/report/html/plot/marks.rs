//! What is drawn at shares of a plot's area: points, intervals, bands, limits and their labels.

use maud::{Markup, html};

use super::{Plot, colour};

/// Written above the plot, where a line begins.
#[derive(Clone, Debug)]
pub(super) struct Label {
    at: f64,
    text: String,
    class: &'static str,
}

/// Points of this many targets differ in their shape.
const SHAPES: usize = 6;

impl Label {
    /// In which row each is written, so that none covers another even on a phone.
    pub(super) fn rows(labels: &[Label]) -> Vec<usize> {
        /// Of the narrowest plot, and of a letter.
        const PLOT: f64 = 290.0;
        const LETTER: f64 = 6.8;
        const APART: f64 = 10.0;
        let mut ends: Vec<Vec<(f64, f64)>> = Vec::new();
        let row = |label: &Label| {
            let width = label.text.chars().count() as f64 * LETTER + APART;
            let from = label.at * (PLOT - width);
            let is_free = |row: &Vec<(f64, f64)>| {
                row.iter().all(|(low, high)| from >= *high || from + width <= *low)
            };
            let row = ends.iter().position(is_free).unwrap_or(ends.len());
            ends.resize(ends.len().max(row + 1), Vec::new());
            ends[row].push((from, from + width));
            row
        };
        labels.iter().map(row).collect()
    }

    /// Moved to the left by as much of its width as it is to the right: so it never leaves the plot.
    pub(super) fn draw(&self, row: usize) -> Markup {
        let shift = 100.0 * self.at;
        let style =
            format!("left:{};--row:{row};transform:translateX(-{shift:.1}%)", share(self.at));
        html! { span class=(self.class) style=(style) { (self.text) } }
    }
}

impl Plot {
    /// A target's point, in its shape.
    pub(in super::super) fn point(&mut self, x: f64, y: f64, target: usize, title: &str) {
        let (x, y) = (share(self.x_of(x)), share(self.y_of(y)));
        self.over.push(html! {
            g.point.data.(colour(Some(target))) {
                title { (title) }
                use href=(format!("#shape{}", target % SHAPES)) x=(x) y=(y) {}
            }
        });
    }

    pub(in super::super) fn dot(&mut self, x: f64, y: f64, target: Option<usize>, radius: f64) {
        let (x, y) = (share(self.x_of(x)), share(self.y_of(y)));
        self.over.push(html! { circle.dot.(colour(target)) cx=(x) cy=(y) r=(radius) {} });
    }

    /// From `low` to `high` along the vertical axis.
    pub(in super::super) fn vertical_interval(
        &mut self,
        x: f64,
        (low, high): (f64, f64),
        target: usize,
    ) {
        let x = share(self.x_of(x));
        let [low, high] = [low, high].map(|y| share(self.y_of(y)));
        self.over.push(html! {
            g.interval.(colour(Some(target))) {
                line x1=(x) x2=(x) y1=(low) y2=(high) {}
                @for end in [low, high] {
                    svg x=(x) y=(end) overflow="visible" { path d="M-4 0H4" {} }
                }
            }
        });
    }

    /// Along the horizontal axis; those of several targets lie beside each other.
    pub(in super::super) fn horizontal_interval(
        &mut self,
        (low, high): (f64, f64),
        y: f64,
        target: usize,
    ) {
        let y = share(self.y_of(y));
        let [low, high] = [low, high].map(|x| share(self.x_of(x)));
        self.over.push(html! {
            g.interval.(colour(Some(target))) {
                line x1=(low) x2=(high) y1=(y) y2=(y) {}
                @for end in [low, high] {
                    svg x=(end) y=(y) overflow="visible" { path d="M0-4V4" {} }
                }
            }
        });
    }

    /// A shaded part of the horizontal axis.
    pub(in super::super) fn band(&mut self, low: f64, high: f64, class: &str) {
        let (low, high) = (self.x_of(low), self.x_of(high));
        if high > low {
            let (x, width) = (share(low), share(high - low));
            self.under.push(html! { rect.band.(class) x=(x) width=(width) y="0" height="100%" {} });
        }
    }

    /// A labelled line down the whole plot.
    pub(in super::super) fn mark_x(
        &mut self,
        x: f64,
        text: impl Into<String>,
        class: &'static str,
    ) {
        let at = self.x_of(x);
        let x = share(at);
        self.over.push(html! { line.limit.(class) x1=(x) x2=(x) y1="0" y2="100%" {} });
        self.labels.push(Label { at, text: text.into(), class });
    }

    /// A label alone, above the plot.
    pub(in super::super) fn label_x(
        &mut self,
        x: f64,
        text: impl Into<String>,
        class: &'static str,
    ) {
        self.labels.push(Label { at: self.x_of(x), text: text.into(), class });
    }

    /// A labelled line across the whole plot.
    pub(in super::super) fn mark_y(&mut self, y: f64, text: &str, class: &'static str) {
        let at = self.y_of(y);
        // Under the line where there is no room above it.
        let dy = if at < 0.1 { 13 } else { -4 };
        let y = share(at);
        self.over.push(html! {
            line.limit.(class) x1="0" x2="100%" y1=(y) y2=(y) {}
            text.limit.(class) x="100%" y=(y) dx="-4" dy=(dy) text-anchor="end" { (text) }
        });
    }
}

/// What stands before a name in a legend.
pub(in super::super) fn key(target: Option<usize>, class: &str, has_shape: bool) -> Markup {
    html! {
        svg.key.(colour(target)) width="28" height="12" aria-hidden="true" {
            path class=(class) d="M1 6H27" {}
            @if let Some(target) = target.filter(|_| has_shape) {
                use.point href=(format!("#shape{}", target % SHAPES)) x="14" y="6" {}
            }
        }
    }
}

/// Shapes that points are drawn with, around their middle.
pub(in super::super) fn shapes() -> Markup {
    const PATHS: [&str; SHAPES] = [
        "M-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0-9 0Z",
        "M-4-4H4V4H-4Z",
        "M0-5.5L5 3.5H-5Z",
        "M0-5.5L5.5 0L0 5.5L-5.5 0Z",
        "M0 5.5L5-3.5H-5Z",
        "M-1.5-5H1.5V-1.5H5V1.5H1.5V5H-1.5V1.5H-5V-1.5H-1.5Z",
    ];
    html! {
        @for (place, d) in PATHS.iter().enumerate() {
            path id=(format!("shape{place}")) d=(d) {}
        }
    }
}

/// A share, as SVG and CSS write one.
pub(in super::super) fn share(share: f64) -> String {
    format!("{:.2}%", 100.0 * share)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_side_by_side_share_a_row() {
        let label = |at: f64| Label { at, text: "objective".to_owned(), class: "" };
        let rows =
            |places: &[f64]| Label::rows(&places.iter().copied().map(label).collect::<Vec<_>>());
        assert_eq!(rows(&[0.1, 0.9]), [0, 0]);
        assert_eq!(rows(&[0.5, 0.52, 0.95, 0.51]), [0, 1, 0, 2]);
    }
}
