//! What is seen while it runs: a view on a terminal, or a line now and then.

use std::{
    io::{self, IsTerminal},
    sync::Arc,
    time::{Duration, Instant},
};

use ratatui::{
    DefaultTerminal, Frame,
    crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers},
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style, Stylize},
    symbols::Marker,
    text::{Line, Span},
    widgets::{Axis, Block, Chart, Dataset, Gauge, GraphType, Row, Table},
};
use tokio_util::sync::CancellationToken;

use crate::{
    measure::{Recorder, Window},
    run::{Health, Run, Side},
    slo::{Latency, Quantile},
};

const LOOK: Duration = Duration::from_millis(250);
/// Where nobody looks at a terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);
const COLOURS: [Color; 4] = [Color::Cyan, Color::Yellow, Color::Magenta, Color::Green];

/// Shows how a run goes.
#[derive(Debug)]
pub(crate) struct Live {
    terminal: Option<DefaultTerminal>,
    stop: CancellationToken,
    title: String,
    names: Vec<String>,
    window: Window,
    last_line: Instant,
    /// Said while the view was up, for afterwards.
    said: Vec<String>,
}

/// One look.
struct Now<'a> {
    live: &'a Live,
    elapsed: Duration,
    recorders: &'a [Recorder],
    health: &'a Health,
}

impl Live {
    /// A view, if it is wanted and somebody can see it.
    pub(crate) fn new(is_wanted: bool, stop: &CancellationToken) -> Self {
        let is_seen = is_wanted && io::stdout().is_terminal() && io::stdin().is_terminal();
        Live {
            terminal: is_seen.then(|| ratatui::try_init().ok()).flatten(),
            stop: stop.clone(),
            title: String::new(),
            names: Vec::new(),
            window: Window { from: Duration::ZERO, to: Duration::MAX },
            last_line: Instant::now(),
            said: Vec::new(),
        }
    }

    /// Another run.
    pub(crate) fn begin(&mut self, title: &str, sides: &Arc<[Side]>, window: Window) {
        title.clone_into(&mut self.title);
        self.names = sides.iter().map(|side| side.name.clone()).collect();
        self.window = window;
        self.last_line = Instant::now();
    }

    /// Waits a little, and shows how things are.
    pub(crate) fn look(&mut self, run: &Run) {
        self.wait();
        let elapsed = run.begin.elapsed();
        if let Some(mut terminal) = self.terminal.take() {
            let (recorders, health) = (run.so_far(), run.health());
            let now = Now { live: self, elapsed, recorders: &recorders, health: &health };
            // A terminal that can't be drawn on isn't worth the run.
            let _ = terminal.draw(|frame| now.draw(frame));
            self.terminal = Some(terminal);
        } else if self.last_line.elapsed() >= LINE_EVERY {
            self.last_line = Instant::now();
            let lines: Vec<String> = run.so_far().iter().zip(&self.names).map(line).collect();
            self.say(&format!("{:>6.0} s  {}", elapsed.as_secs_f64(), lines.join("  |  ")));
        }
    }

    /// A line for the reader.
    #[expect(clippy::print_stderr, reason = "a command line tool speaks there")]
    pub(crate) fn say(&mut self, line: &str) {
        match self.terminal {
            Some(_) => self.said.push(line.to_owned()),
            None => eprintln!("{line}"),
        }
    }

    /// The terminal is as it was.
    pub(crate) fn close(&mut self) {
        if self.terminal.take().is_some() {
            ratatui::restore();
        }
        for line in std::mem::take(&mut self.said) {
            self.say(&line);
        }
    }

    /// Also for keys: a terminal with a view on it sends no signals.
    fn wait(&self) {
        let until = Instant::now() + LOOK;
        if self.terminal.is_none() {
            return std::thread::sleep(Duration::from_millis(20));
        }
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || !event::poll(left).unwrap_or(false) {
                return;
            }
            let Ok(Event::Key(key)) = event::read() else { continue };
            let is_stop = key.code == KeyCode::Char('q')
                || key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
            if key.kind == KeyEventKind::Press && is_stop {
                self.stop.cancel();
            }
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.close();
    }
}

fn line((recorder, name): (&Recorder, &String)) -> String {
    let all = recorder.totals();
    let ms = |latency: Latency| {
        let value = all.histogram(latency).value(Quantile::P50);
        value.map_or_else(|| "–".to_owned(), |ms| format!("{ms:.0}"))
    };
    let missed = all.offered - all.completed;
    format!(
        "{name}: {} ended, {missed} unanswered, TTFT P50 {} ms, TPOT P50 {} ms",
        all.offered,
        ms(Latency::Ttft),
        ms(Latency::Tpot)
    )
}

impl Now<'_> {
    fn draw(&self, frame: &mut Frame<'_>) {
        let targets = self.recorders.len() as u16;
        let [head, progress, table, charts, foot] = Layout::vertical([
            Constraint::Length(1),
            Constraint::Length(1),
            Constraint::Length(targets + 3),
            Constraint::Min(8),
            Constraint::Length(1),
        ])
        .areas(frame.area());
        frame.render_widget(Line::from(self.live.title.as_str()).bold(), head);
        self.progress(frame, progress);
        self.table(frame, table);
        let [left, right] = Layout::horizontal([Constraint::Fill(1); 2]).areas(charts);
        self.chart(frame, left, "TTFT P50, ms", |slice| slice.ttft.value(Quantile::P50));
        self.chart(frame, right, "TPOT P50, ms", |slice| slice.tpot.value(Quantile::P50));
        let late = self.health.late.value(Quantile::P99).unwrap_or(0.0);
        let said = format!(
            "client: 99 % sent at most {late:.2} ms late   q: stop, and report what there is"
        );
        frame.render_widget(Line::from(said).dim(), foot);
    }

    fn progress(&self, frame: &mut Frame<'_>, area: Rect) {
        let (elapsed, to) = (self.elapsed.as_secs_f64(), self.live.window.to);
        if to == Duration::MAX {
            return frame.render_widget(Line::from(format!("{elapsed:.0} s")), area);
        }
        let share = (elapsed / to.as_secs_f64().max(1e-9)).clamp(0.0, 1.0);
        let label = match share < 1.0 {
            true => format!("{elapsed:.0} of {:.0} s", to.as_secs_f64()),
            false => "waiting for the last answers".to_owned(),
        };
        frame.render_widget(
            Gauge::default().ratio(share).label(label).gauge_style(COLOURS[0]),
            area,
        );
    }

    fn table(&self, frame: &mut Frame<'_>, area: Rect) {
        let row = |(nth, recorder): (usize, &Recorder)| {
            let all = recorder.totals();
            let ms = |latency: Latency, quantile: Quantile| {
                let value = all.histogram(latency).value(quantile);
                value.map_or_else(|| "–".to_owned(), |ms| format!("{ms:.1}"))
            };
            let in_time = 100.0 * all.met as f64 / (all.offered as f64).max(1.0);
            let missed = all.offered - all.completed;
            let name = Span::styled(self.live.names[nth].clone(), COLOURS[nth % COLOURS.len()]);
            let missed_style = if missed > 0 { Style::new().fg(Color::Red) } else { Style::new() };
            Row::new([
                name,
                Span::raw(all.offered.to_string()),
                Span::styled(missed.to_string(), missed_style),
                Span::raw(format!("{in_time:.1} %")),
                Span::raw(ms(Latency::Ttft, Quantile::P50)),
                Span::raw(ms(Latency::Ttft, Quantile::P99)),
                Span::raw(ms(Latency::Tpot, Quantile::P50)),
                Span::raw(ms(Latency::Tpot, Quantile::P99)),
            ])
        };
        let widths = [Constraint::Fill(2)].into_iter().chain([Constraint::Fill(1); 7]);
        let head = ["", "ended", "unanswered", "in time", "TTFT P50", "P99", "TPOT P50", "P99"];
        let table = Table::new(self.recorders.iter().enumerate().map(row), widths)
            .header(Row::new(head).add_modifier(Modifier::DIM))
            .block(Block::bordered());
        frame.render_widget(table, area);
    }

    fn chart(
        &self,
        frame: &mut Frame<'_>,
        area: Rect,
        title: &str,
        of: impl Fn(&crate::measure::Slice) -> Option<f64>,
    ) {
        let points: Vec<Vec<(f64, f64)>> = self
            .recorders
            .iter()
            .map(|recorder| {
                let slices = recorder.slices.iter();
                slices.filter_map(|(at, slice)| Some((at.as_secs_f64(), of(slice)?))).collect()
            })
            .collect();
        let top = points.iter().flatten().map(|(_, ms)| *ms).fold(1.0_f64, f64::max) * 1.1;
        let end = self.elapsed.as_secs_f64().max(1.0);
        let dataset = |(nth, points): (usize, &'_ Vec<(f64, f64)>)| (nth, points.clone());
        let owned: Vec<_> = points.iter().enumerate().map(dataset).collect();
        let datasets = owned.iter().map(|(nth, points)| {
            Dataset::default()
                .marker(Marker::Braille)
                .graph_type(GraphType::Line)
                .style(COLOURS[nth % COLOURS.len()])
                .data(points)
        });
        let chart = Chart::new(datasets.collect())
            .block(Block::bordered().title(title.to_owned()))
            .x_axis(
                Axis::default()
                    .bounds([0.0, end])
                    .labels(["0 s".to_owned(), format!("{end:.0} s")]),
            )
            .y_axis(
                Axis::default().bounds([0.0, top]).labels(["0".to_owned(), format!("{top:.0}")]),
            );
        frame.render_widget(chart, area);
    }
}
