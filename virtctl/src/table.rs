//! Columns of text, as `kubectl` lays them out.

/// What an empty cell shows.
pub(crate) const NONE: &str = "<none>";

/// Lays out `rows` under `headers`, three spaces between columns, each line indented by `indent` spaces.
pub(crate) fn render(headers: &[&str], rows: &[Vec<String>], indent: usize) -> String {
    let mut widths: Vec<usize> = headers.iter().map(|header| header.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = String::new();
    let header = headers.iter().map(|header| (*header).to_owned()).collect();
    for row in std::iter::once(&header).chain(rows) {
        let mut line = " ".repeat(indent);
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(cell);
            line.push_str(&" ".repeat(width + 3 - cell.chars().count()));
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// The cell for a value that may be missing or empty.
pub(crate) fn cell(value: Option<&str>) -> String {
    value.filter(|value| !value.is_empty()).unwrap_or(NONE).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [vec!["a".into(), "ü".into(), "x".into()], vec!["longer".into(), String::new(), "y".into()]];
        assert_eq!(render(&["N", "M", "L"], &rows, 1), " N        M   L\n a        ü   x\n longer       y\n");
        assert_eq!(cell(Some("")), NONE);
    }
}
