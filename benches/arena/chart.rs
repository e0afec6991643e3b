//! A bar chart of a workload.

use std::{error::Error, path::Path};

use plotters::{
    prelude::{BLACK, IntoDrawingArea as _, RGBColor, Rectangle, SVGBackend, Text, WHITE},
    style::{Color as _, IntoFont as _},
};

use crate::report::{Chapter, figure};

const WIDTH: i32 = 760;
const TITLE_HEIGHT: i32 = 44;
const BAR_HEIGHT: i32 = 30;
const NAMES_WIDTH: i32 = 110;
const FIGURES_WIDTH: i32 = 210;

/// Draws the medians of a workload, with the spread of the rounds as a line. The longest bar is the greatest median.
pub(crate) fn draw(chapter: &Chapter, path: &Path) -> Result<(), Box<dyn Error>> {
    let height = TITLE_HEIGHT + BAR_HEIGHT * i32::try_from(chapter.rows.len())? + 10;
    let area = SVGBackend::new(path, (WIDTH.unsigned_abs(), height.unsigned_abs())).into_drawing_area();
    area.fill(&WHITE)?;
    let unit = chapter.workload.unit();
    let [title, font] = [17, 14].map(|size| ("sans-serif", size).into_font());
    let better = if unit.is_more_better() { "more is better" } else { "less is better" };
    let heading = format!("{}. {} ({unit}, {better})", chapter.workload.letter(), chapter.workload.title());
    area.draw(&Text::new(heading, (10, 12), title))?;
    let greatest = chapter.rows.iter().map(|row| row.median).fold(f64::MIN_POSITIVE, f64::max);
    let room = f64::from(WIDTH - NAMES_WIDTH - FIGURES_WIDTH);
    let right = |value: f64| NAMES_WIDTH + (value / greatest * room).min(room * 1.05) as i32;
    for (top, row) in (TITLE_HEIGHT..).step_by(BAR_HEIGHT.unsigned_abs() as usize).zip(&chapter.rows) {
        let bottom = top + BAR_HEIGHT - 8;
        let color = match row.system {
            "counterfoil" => RGBColor(0x1f, 0x77, 0xb4),
            "limit" => RGBColor(0x55, 0x55, 0x55),
            _ => RGBColor(0xb8, 0xc4, 0xce),
        };
        let star = if row.is_less { "*" } else { "" };
        area.draw(&Text::new(format!("{}{star}", row.system), (10, top + 4), font.clone()))?;
        area.draw(&Rectangle::new([(NAMES_WIDTH, top), (right(row.median), bottom)], color.filled()))?;
        let middle = i32::midpoint(top, bottom);
        let spread = [(right(row.min), middle - 1), (right(row.max), middle + 1)];
        area.draw(&Rectangle::new(spread, BLACK.filled()))?;
        let tail = row.p99.map_or_else(String::new, |p99| format!(", p99 {p99:.1} us"));
        let label = format!("{} {unit}{tail}", figure(row.median, unit));
        area.draw(&Text::new(label, (right(row.median.max(row.max)) + 8, top + 4), font.clone()))?;
    }
    area.present()?;
    Ok(())
}
