//! Names that somebody may have meant. Pure.

/// The names nearest to `name`, best first, at most three.
pub(crate) fn near<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let allowed = (name.chars().count() / 3).clamp(1, 3);
    let mut candidates: Vec<(usize, &str)> = known
        .into_iter()
        .filter_map(|candidate| {
            let distance = distance(name, candidate);
            let part =
                name.len() >= 3 && (candidate.contains(name) || name.contains(candidate) && candidate.len() >= 3);
            (distance <= allowed || part).then_some((distance, candidate))
        })
        .collect();
    candidates.sort_unstable();
    candidates.into_iter().map(|(_, candidate)| candidate).take(3).collect()
}

/// Insertions, deletions, replacements and swaps of neighbours that turn `a` into `b` (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(before[j - 2] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_of_the_finger_and_parts_of_names() {
        let known = ["web", "web-2", "db", "shop-database", "ö"];
        for (name, expected) in [
            ("wbe", vec!["web"]),
            ("web", vec!["web", "web-2"]),
            ("database", vec!["shop-database"]),
            ("dc", vec!["db"]),
            ("mail", vec![]),
            ("", vec!["ö"]),
        ] {
            assert_eq!(near(name, known), expected, "{name}");
        }
    }

    #[test]
    fn distances() {
        for (a, b, d) in [("", "", 0), ("abc", "acb", 1), ("kitten", "sitting", 3), ("", "abc", 3)] {
            assert_eq!(distance(a, b), d, "{a} {b}");
        }
    }
}
