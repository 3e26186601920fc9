//! The charts as SVG: bars for the operations, lines for the growth. Scales are logarithmic, since
//! the contenders differ by a factor of a hundred. The background is white, so that they are
//! readable on a dark page too.

use std::ops::Range;

use anyhow::Result;
use plotters::{
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

use super::{growth::Curve, measure::Measure};

const OURS: RGBColor = RGBColor(11, 114, 133);
const FLOOR: RGBColor = RGBColor(148, 163, 184);
const PEER: RGBColor = RGBColor(217, 72, 15);
const GRID: RGBColor = RGBColor(226, 232, 240);
const FONT: &str = "sans-serif";

/// Whole decades around all `values`, in microseconds.
fn decades(values: impl Iterator<Item = f64>) -> Range<f64> {
    let (low, high) =
        values.fold((f64::INFINITY, 0.0_f64), |(low, high), it| (low.min(it), high.max(it)));
    let (low, high) = if high == 0.0 { (1.0, 10.0) } else { (low, high) };
    let low = low.log10().floor();
    10_f64.powf(low)..10_f64.powf(high.log10().ceil().max(low + 1.0))
}

fn time(micros: f64) -> String {
    let (value, unit) = match micros {
        _ if micros >= 999_500.0 => (micros / 1e6, "s"),
        _ if micros >= 999.5 => (micros / 1e3, "ms"),
        _ => (micros, "µs"),
    };
    // Two significant digits, without a decimal of zero.
    let digits = usize::from(value < 9.95 && (value - value.round()).abs() > 0.05);
    format!("{value:.digits$} {unit}")
}

/// Bars for each operation: ours, the floor and the peer.
pub(crate) fn operations(measures: &[Measure]) -> Result<String> {
    const BAR: f64 = 0.28;
    let contenders = [
        (OURS, "rscni", measures.iter().map(|m| Some(m.ours.time.median)).collect::<Vec<_>>()),
        (FLOOR, "floor", measures.iter().map(|m| Some(m.floor?.median)).collect()),
        (PEER, "Go plugins", measures.iter().map(|m| Some(m.peer.as_ref()?.time.median)).collect()),
    ];
    let values = contenders.iter().flat_map(|(_, _, values)| values.iter().flatten().copied());
    let range = decades(values);
    let rows = u32::try_from(measures.len())?;
    let middle = |row: usize| f64::from(rows) - f64::from(u32::try_from(row).unwrap_or(rows)) - 0.5;
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (960, 90 + 44 * rows)).into_drawing_area();
        root.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&root)
            .caption("Time of a call (median, logarithmic scale)", (FONT, 20))
            .margin(10)
            .margin_right(80)
            .x_label_area_size(30)
            .y_label_area_size(360)
            .build_cartesian_2d(range.clone().log_scale(), 0.0..f64::from(rows))?;
        chart
            .configure_mesh()
            .disable_y_mesh()
            .disable_y_axis()
            .bold_line_style(GRID)
            .light_line_style(TRANSPARENT)
            .x_label_style((FONT, 14))
            .x_label_formatter(&|micros| time(*micros))
            .draw()?;
        let end = TextStyle::from((FONT, 15)).pos(Pos::new(HPos::Right, VPos::Center));
        chart.draw_series(measures.iter().enumerate().map(|(row, measure)| {
            let name = format!("{} {}  ", measure.case, measure.command);
            Text::new(name, (range.start, middle(row)), end.clone())
        }))?;
        let start = TextStyle::from((FONT, 13)).pos(Pos::new(HPos::Left, VPos::Center));
        for (place, (colour, name, values)) in contenders.iter().enumerate() {
            let top = |row| middle(row) + BAR * [1.5, 0.5, -0.5][place];
            let bars = values.iter().enumerate().filter_map(|(row, value)| Some((row, (*value)?)));
            chart
                .draw_series(bars.clone().map(|(row, value)| {
                    let corners = [(range.start, top(row)), (value, top(row) - BAR * 0.9)];
                    Rectangle::new(corners, colour.filled())
                }))?
                .label(*name)
                .legend(|(x, y)| Rectangle::new([(x, y - 5), (x + 12, y + 5)], colour.filled()));
            chart.draw_series(bars.map(|(row, value)| {
                let at = (value, top(row) - BAR / 2.0);
                Text::new(format!(" {}", time(value)), at, start.clone())
            }))?;
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .label_font((FONT, 15))
            .background_style(WHITE)
            .border_style(GRID)
            .draw()?;
        root.present()?;
    }
    Ok(svg)
}

/// A panel for each curve, over the number of things held.
pub(crate) fn growth(curves: &[Curve]) -> Result<String> {
    let panels = u32::try_from(curves.len().max(1))?;
    let all = curves.iter().flat_map(|curve| &curve.points);
    let all = all.flat_map(|point| point.measures.iter().chain(&point.alone));
    let values =
        all.flat_map(|m| [Some(m.ours.time.median), m.peer.as_ref().map(|peer| peer.time.median)]);
    let range = decades(values.flatten());
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (340 * panels, 370)).into_drawing_area();
        root.fill(&WHITE)?;
        let title = "Time of a call, by what is held already (median; solid: ADD, dashed: DEL)";
        let root = root.titled(title, (FONT, 19))?;
        for (curve, panel) in curves.iter().zip(root.split_evenly((1, panels as usize))) {
            let last = curve.points.len().saturating_sub(1).max(1);
            let case = curve.points.first().map_or("", |point| point.measures[0].case.as_str());
            let mut chart = ChartBuilder::on(&panel)
                .caption(case, (FONT, 15))
                .margin(10)
                .margin_right(30)
                .x_label_area_size(40)
                .y_label_area_size(60)
                .build_cartesian_2d(0..last, range.clone().log_scale())?;
            let held = |index: &usize| {
                curve.points.get(*index).map_or_else(String::new, |point| point.held.to_string())
            };
            chart
                .configure_mesh()
                .disable_x_mesh()
                .bold_line_style(GRID)
                .light_line_style(TRANSPARENT)
                .x_labels(curve.points.len())
                .x_label_formatter(&held)
                .x_desc(format!("{} held", curve.held))
                .label_style((FONT, 13))
                .y_label_formatter(&|micros| time(*micros))
                .draw()?;
            for (colour, name, is_peer) in [(OURS, "rscni", false), (PEER, "Go plugins", true)] {
                let median = |command: usize| {
                    let points = curve.points.iter().enumerate();
                    let value = move |(index, point): (usize, &super::growth::Point)| {
                        let peer = || Some(point.measures[command].peer.as_ref()?.time.median);
                        let ours = point.alone[command].ours.time.median;
                        Some((index, if is_peer { peer()? } else { ours }))
                    };
                    points.filter_map(value).collect::<Vec<_>>()
                };
                let style = colour.stroke_width(2);
                chart
                    .draw_series(LineSeries::new(median(0), style))?
                    .label(name)
                    .legend(move |(x, y)| PathElement::new([(x, y), (x + 14, y)], style));
                chart.draw_series(DashedLineSeries::new(median(1), 5, 4, style))?;
            }
            chart
                .configure_series_labels()
                .position(SeriesLabelPosition::UpperLeft)
                .label_font((FONT, 14))
                .background_style(WHITE)
                .border_style(GRID)
                .draw()?;
        }
        root.present()?;
    }
    Ok(svg)
}

#[cfg(test)]
mod tests {
    use super::{
        super::{growth::Point, measure::Cost, statistics::Spread},
        *,
    };

    fn measure(command: &'static str, micros: f64) -> Measure {
        let spread = |median| Spread { lower: median, median, upper: median, samples: 1 };
        let cost = |median| Cost { time: spread(median), footprint: None };
        Measure {
            case: "bridge".to_owned(),
            command,
            ours: cost(micros),
            peer: Some(cost(10.0 * micros)),
            floor: Some(spread(micros / 2.0)),
        }
    }

    #[test]
    fn charts_name_operations_contenders_and_times() {
        let svg = operations(&[measure("ADD", 1500.0), measure("DEL", 20_000.0)]).unwrap();
        for text in ["bridge ADD", "bridge DEL", "rscni", "floor", "Go plugins", "1.5 ms", "200 ms"]
        {
            assert!(svg.contains(text), "{text} is not in {svg}");
        }
        let measures = || [measure("ADD", 1500.0), measure("DEL", 20_000.0)];
        let point = |held| Point { held, measures: measures(), alone: measures() };
        let points = vec![point(0), point(100), point(60_000)];
        let svg = growth(&[Curve { held: "reservations", points }]).unwrap();
        for text in ["bridge", "reservations held", "100", "60000", "10 ms", "Go plugins"] {
            assert!(svg.contains(text), "{text} is not in {svg}");
        }
    }

    #[test]
    fn a_scale_has_whole_decades() {
        let range = decades([150.0, 20_000.0].into_iter());
        assert_eq!((range.start.round(), range.end.round()), (100.0, 100_000.0));
        assert_eq!(decades(std::iter::empty()), 1.0..10.0);
    }

    #[test]
    fn times_have_two_significant_digits() {
        assert_eq!(time(450.4), "450 µs");
        assert_eq!(time(999.9), "1 ms");
        assert_eq!(time(1234.0), "1.2 ms");
        assert_eq!(time(12_345.0), "12 ms");
        assert_eq!(time(2_500_000.0), "2.5 s");
    }
}
