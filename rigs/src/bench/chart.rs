//! The charts, as SVG written by hand: bars for the operations, lines for growth. Both have logarithmic scales, since
//! the contenders are a factor of a hundred apart, and a white ground, so that they read well on a dark page too.

use std::fmt::Write;

use super::{growth::Curve, measure::Measure};

const OURS: &str = "#0b7285";
const FLOOR: &str = "#94a3b8";
const PEER: &str = "#d9480f";
const TEXT: &str = "#1f2937";
const GRID: &str = "#e2e8f0";

/// A logarithmic scale from microseconds to a place on the chart.
struct Scale {
    decades: (i32, i32),
    from: f64,
    to: f64,
}

impl Scale {
    /// Whole decades around all of `values`.
    fn around(values: impl Iterator<Item = f64>, from: f64, to: f64) -> Self {
        let (mut low, mut high) = (f64::INFINITY, 0.0_f64);
        for value in values {
            low = low.min(value);
            high = high.max(value);
        }
        if high == 0.0 {
            (low, high) = (1.0, 10.0);
        }
        #[expect(clippy::cast_possible_truncation, reason = "decades of microseconds")]
        let decades = (low.log10().floor() as i32, high.log10().ceil() as i32);
        Self { decades: (decades.0, decades.1.max(decades.0 + 1)), from, to }
    }

    fn place(&self, value: f64) -> f64 {
        let (low, high) = (f64::from(self.decades.0), f64::from(self.decades.1));
        self.from + (value.log10() - low) / (high - low) * (self.to - self.from)
    }

    fn ticks(&self) -> impl Iterator<Item = (f64, String)> {
        (self.decades.0..=self.decades.1).map(|decade| {
            let value = 10_f64.powi(decade);
            (self.place(value), time(value))
        })
    }
}

fn time(micros: f64) -> String {
    match micros {
        _ if micros >= 999_500.0 => format!("{} s", short(micros / 1e6)),
        _ if micros >= 999.5 => format!("{} ms", short(micros / 1e3)),
        _ => format!("{} µs", short(micros)),
    }
}

/// Two digits that count, without a decimal point where there is none to say.
fn short(value: f64) -> String {
    if value < 9.95 && (value - value.round()).abs() > 0.05 {
        format!("{value:.1}")
    } else {
        format!("{value:.0}")
    }
}

struct Svg(String);

impl Svg {
    fn new(width: u32, height: u32, title: &str) -> Self {
        let mut svg = Self(format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} \
             {height}\" role=\"img\" font-family=\"system-ui, sans-serif\" font-size=\"13\">\n<title>{title}</title>\n"
        ));
        svg.rectangle(0.0, 0.0, width.into(), height.into(), "#ffffff");
        svg.text(
            16.0,
            24.0,
            "start",
            TEXT,
            &format!("<tspan font-size=\"15\" font-weight=\"600\">{title}</tspan>"),
        );
        svg
    }

    fn rectangle(&mut self, x: f64, y: f64, width: f64, height: f64, fill: &str) {
        let _ = writeln!(
            self.0,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{fill}\"/>"
        );
    }

    fn line(&mut self, points: &[(f64, f64)], stroke: &str, width: f64, dashes: &str) {
        let points: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let _ = writeln!(
            self.0,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{stroke}\" stroke-width=\"{width}\" \
             stroke-dasharray=\"{dashes}\"/>",
            points.join(" ")
        );
    }

    fn text(&mut self, x: f64, y: f64, anchor: &str, fill: &str, text: &str) {
        let _ = writeln!(
            self.0,
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"{fill}\">{text}</text>"
        );
    }

    /// What the colours mean.
    fn key(&mut self, mut x: f64, y: f64, entries: &[(&str, &str)]) {
        for (colour, text) in entries {
            self.rectangle(x, y - 10.0, 12.0, 12.0, colour);
            self.text(x + 18.0, y, "start", TEXT, text);
            x += 40.0 + 7.5 * f64::from(u32::try_from(text.chars().count()).unwrap_or(u32::MAX));
        }
    }

    fn end(mut self) -> String {
        self.0.push_str("</svg>\n");
        self.0
    }
}

/// How high a bar is.
const BAR: f64 = 11.0;

/// How high a group of bars is.
fn height(bars: usize) -> f64 {
    f64::from(u32::try_from(bars).unwrap_or(u32::MAX)) * BAR + 9.0
}

/// A group of bars for each operation.
pub(crate) fn operations(measures: &[Measure]) -> String {
    const WIDTH: u32 = 960;
    const TOP: f64 = 74.0;
    const LEFT: f64 = 270.0;
    let bars = |measure: &Measure| {
        let peer = measure.peer.as_ref().map(|peer| (PEER, peer.time.median));
        let floor = measure.floor.map(|floor| (FLOOR, floor.median));
        [Some((OURS, measure.ours.time.median)), floor, peer]
            .into_iter()
            .flatten()
            .collect::<Vec<_>>()
    };
    let groups: Vec<(String, Vec<(&str, f64)>)> = measures
        .iter()
        .map(|measure| (format!("{} {}", measure.case, measure.command), bars(measure)))
        .collect();
    let heights: f64 = groups.iter().map(|(_, bars)| height(bars.len())).sum();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the height of a picture"
    )]
    let mut svg = Svg::new(
        WIDTH,
        (TOP + heights + 12.0) as u32,
        "Time of a call (median; each step is ten times as much)",
    );
    svg.key(
        16.0,
        48.0,
        &[(OURS, "rscni"), (FLOOR, "floor: the kernel's part"), (PEER, "Go plugins")],
    );
    let values = groups.iter().flat_map(|(_, bars)| bars.iter().map(|(_, value)| *value));
    let scale = Scale::around(values, LEFT, f64::from(WIDTH) - 80.0);
    for (x, label) in scale.ticks() {
        svg.line(&[(x, TOP - 4.0), (x, TOP + heights)], GRID, 1.0, "");
        svg.text(x, TOP - 8.0, "middle", TEXT, &label);
    }
    let mut y = TOP;
    for (name, bars) in &groups {
        let middle = y + height(bars.len()) / 2.0;
        svg.text(LEFT - 12.0, middle + 1.0, "end", TEXT, name);
        let mut top = y + 3.0;
        for (colour, value) in bars {
            let end = scale.place(*value);
            svg.rectangle(LEFT, top, end - LEFT, BAR - 1.0, colour);
            svg.text(
                end + 5.0,
                top + BAR - 2.0,
                "start",
                TEXT,
                &format!("<tspan font-size=\"11\">{}</tspan>", time(*value)),
            );
            top += BAR;
        }
        y += height(bars.len());
    }
    svg.end()
}

/// A panel for each curve, with what is held from left to right.
pub(crate) fn growth(curves: &[Curve]) -> String {
    const WIDTH: f64 = 330.0;
    const TOP: f64 = 100.0;
    const BOTTOM: f64 = 320.0;
    let panels = f64::from(u32::try_from(curves.len()).unwrap_or(u32::MAX));
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the width of a picture"
    )]
    let width = (WIDTH * panels.max(2.0)) as u32;
    let mut svg = Svg::new(width, 370, "Time of a call, by what is held already (median)");
    svg.key(
        16.0,
        48.0,
        &[(OURS, "rscni"), (PEER, "Go plugins"), ("none", "solid: ADD, dashed: DEL")],
    );
    let all = curves
        .iter()
        .flat_map(|curve| &curve.points)
        .flat_map(|point| point.measures.iter().chain(&point.alone));
    let values = all
        .flat_map(|m| [Some(m.ours.time.median), m.peer.as_ref().map(|peer| peer.time.median)])
        .flatten();
    let scale = Scale::around(values, BOTTOM, TOP);
    let mut left = 0.0;
    for curve in curves {
        let (from, to) = (left + 62.0, left + WIDTH - 24.0);
        let case = curve.points.first().map_or("", |point| point.measures[0].case.as_str());
        svg.text(f64::midpoint(from, to), TOP - 22.0, "middle", TEXT, case);
        for (y, label) in scale.ticks() {
            svg.line(&[(from, y), (to, y)], GRID, 1.0, "");
            svg.text(from - 6.0, y + 4.0, "end", TEXT, &label);
        }
        let last = f64::from(
            u32::try_from(curve.points.len().saturating_sub(1).max(1)).unwrap_or(u32::MAX),
        );
        let x = |index: usize| {
            from + f64::from(u32::try_from(index).unwrap_or(u32::MAX)) / last * (to - from)
        };
        for (index, point) in curve.points.iter().enumerate() {
            svg.text(x(index), BOTTOM + 18.0, "middle", TEXT, &point.held.to_string());
        }
        svg.text(
            f64::midpoint(from, to),
            BOTTOM + 38.0,
            "middle",
            TEXT,
            &format!("{} held", curve.held),
        );
        for (command, dashes) in [(0, ""), (1, "5 4")] {
            let points = || curve.points.iter().enumerate().map(|(index, point)| (x(index), point));
            let alone =
                points().map(|(x, point)| (x, scale.place(point.alone[command].ours.time.median)));
            let ours: Vec<_> = alone.collect();
            let peer =
                points().filter_map(|(x, point)| Some((x, point.measures[command].peer.as_ref()?)));
            let peer: Vec<_> = peer.map(|(x, cost)| (x, scale.place(cost.time.median))).collect();
            svg.line(&ours, OURS, 2.5, dashes);
            svg.line(&peer, PEER, 2.5, dashes);
        }
        left += WIDTH;
    }
    svg.end()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decade_is_as_wide_as_the_next_one() {
        let scale = Scale::around([150.0, 20_000.0].into_iter(), 0.0, 300.0);
        let places: Vec<_> = scale.ticks().collect();
        let labels: Vec<&str> = places.iter().map(|(_, label)| label.as_str()).collect();
        assert_eq!(labels, ["100 µs", "1 ms", "10 ms", "100 ms"]);
        assert!(places.windows(2).all(|pair| (pair[1].0 - pair[0].0 - 100.0).abs() < 1e-9));
    }

    #[test]
    fn times_are_short() {
        assert_eq!(time(450.4), "450 µs");
        assert_eq!(time(999.9), "1 ms");
        assert_eq!(time(1234.0), "1.2 ms");
        assert_eq!(time(12_345.0), "12 ms");
        assert_eq!(time(2_500_000.0), "2.5 s");
    }
}
