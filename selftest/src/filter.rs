//! Which cases to run, as KUnit's `kunit.filter_glob=` says it. Calls nothing.

/// A pattern `suite` or `suite.case`, in which `*` stands for any text and `?`
/// for any one character. Each half is matched against the whole name; without
/// a dot every case of the matching suites is meant.
#[derive(Clone, Copy, Debug)]
pub struct Filter<'a> {
    pattern: &'a str,
    suite: &'a str,
    case: &'a str,
}

impl<'a> Filter<'a> {
    /// The filter that everything passes.
    pub const ALL: Filter<'static> = Filter { pattern: "*", suite: "*", case: "*" };

    /// Reads a pattern; an empty one lets everything pass.
    pub fn new(pattern: &'a str) -> Self {
        if pattern.is_empty() {
            return Self::ALL;
        }
        let (suite, case) = pattern.split_once('.').unwrap_or((pattern, "*"));
        Self { pattern, suite, case }
    }

    /// The pattern as it was given.
    pub fn pattern(&self) -> &'a str {
        self.pattern
    }

    /// Whether `case` of `suite` is to run.
    pub fn selects(&self, suite: &str, case: &str) -> bool {
        glob(self.suite, suite) && glob(self.case, case)
    }
}

/// Whether all of `text` matches `pattern`. Backtracks only to the last `*`,
/// so the time is at most the product of the lengths.
fn glob(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(&c) if c == b'?' || c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => {
                let Some((at, taken)) = star else { return false };
                star = Some((at, taken + 1));
                p = at + 1;
                t = taken + 1;
            }
        }
    }
    pattern[p..].iter().all(|&c| c == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs() {
        for (pattern, text, matches) in [
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("a*", "a", true),
            ("a*c", "abbc", true),
            ("a*c", "abbd", false),
            ("*ab*ab", "ababab", true),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("?", "", false),
            ("a", "ab", false),
            ("*_order?", "alloc_order0", true),
            ("**b", "ab", true),
        ] {
            assert_eq!(glob(pattern, text), matches, "{pattern} on {text}");
        }
    }

    #[test]
    fn suite_and_case() {
        for (pattern, suite, case, selected) in [
            ("", "buddy", "split", true),
            ("buddy", "buddy", "split", true),
            ("buddy", "buddy2", "split", false),
            ("buddy.*", "buddy", "split", true),
            ("b*.s*", "buddy", "split", true),
            ("*.split", "zones", "split", true),
            ("*.split", "zones", "splits", false),
            ("buddy.", "buddy", "split", false),
        ] {
            assert_eq!(Filter::new(pattern).selects(suite, case), selected, "{pattern}");
        }
    }
}
