//! Statements that are constants of a program, and where their parameters stand.
//!
//! What cannot be told from a parameter, or could be anything but one statement, does not compile.

/// Panics unless a name needs no quotes.
pub(crate) const fn checked_name(name: &str) {
    let mut at = 0;
    while at < name.len() {
        assert!(matches!(name.as_bytes()[at], b'a'..=b'z' | b'_'), "a name is [a-z_]+");
        at += 1;
    }
    assert!(!name.is_empty(), "a name is [a-z_]+");
}

/// Panics unless a text ends where it began: within the brackets that it is put in.
pub(crate) const fn stays_in_brackets(sql: &[u8]) {
    let (mut at, mut open, mut quote) = (0, 0_usize, None);
    while at < sql.len() {
        let next = if at + 1 < sql.len() { sql[at + 1] } else { b' ' };
        assert!(!matches!(sql[at], b';' | b'\\'), "it is one statement");
        match (quote, sql[at]) {
            (None, b'\'' | b'"') => quote = Some(sql[at]),
            // Doubled, it ends one text and begins the next.
            (Some(b'\''), b'\'') | (Some(b'"'), b'"') => quote = None,
            (None, b'(') => open += 1,
            (None, b')') => {
                assert!(open > 0, "it closes no bracket that it did not open");
                open -= 1;
            }
            (None, b'$') => {
                let name = at > 0
                    && (sql[at - 1].is_ascii_alphanumeric() || sql[at - 1] == b'_' || sql[at - 1] > 127);
                assert!(next.is_ascii_digit() && !name, "a dollar is a parameter's");
            }
            (None, b'-') => assert!(next != b'-', "it has no comments"),
            (None, b'/') => assert!(next != b'*', "it has no comments"),
            _ => {}
        }
        at += 1;
    }
    assert!(open == 0 && quote.is_none(), "it closes its brackets and quotes");
}

/// Whether a text holds another, which is in lower case, in any case.
pub(crate) const fn holds(text: &[u8], word: &[u8]) -> bool {
    let mut begin = 0;
    while begin + word.len() <= text.len() {
        let mut at = 0;
        while at < word.len() && text[begin + at].to_ascii_lowercase() == word[at] {
            at += 1;
        }
        if at == word.len() {
            return true;
        }
        begin += 1;
    }
    false
}

/// Panics when a statement takes a parameter beyond the tenant and so many values.
pub(crate) const fn takes_at_most(sql: &[u8], values: usize) {
    assert!(highest_parameter(sql) <= values + 1, "it takes more values than it says");
}

/// Whether a statement takes any parameter.
pub(crate) const fn takes_any(sql: &[u8]) -> bool {
    highest_parameter(sql) > 0
}

/// The highest number of a parameter, outside of quotes.
const fn highest_parameter(sql: &[u8]) -> usize {
    let (mut at, mut highest, mut quote) = (0, 0, 0);
    while at < sql.len() {
        let byte = sql[at];
        at += 1;
        if quote != 0 {
            if byte == quote {
                quote = 0;
            }
        } else if byte == b'\'' || byte == b'"' {
            quote = byte;
        } else if byte == b'$' {
            let mut number = 0;
            while at < sql.len() && sql[at].is_ascii_digit() {
                number = number * 10 + (sql[at] - b'0') as usize;
                at += 1;
            }
            assert!(number > 0, "parameters are numbered from 1");
            if number > highest {
                highest = number;
            }
        }
    }
    highest
}

/// A statement with something else where its parameters are: of `$1` the first of `instead`.
///
/// # Panics
/// When it takes more of them.
pub(crate) fn replaced(sql: &str, instead: &[String]) -> String {
    let (mut text, mut rest) = (String::with_capacity(sql.len()), sql);
    let mut quote = None;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        match (quote, c) {
            (None, '$') => {
                let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
                let number = rest[..digits].parse::<usize>().ok();
                let found = number.and_then(|number| instead.get(number.checked_sub(1)?));
                text.push_str(found.expect("a parameter is one of those that it takes"));
                rest = &rest[digits..];
                continue;
            }
            (None, '\'' | '"') => quote = Some(c),
            (Some(open), c) if open == c => quote = None,
            _ => {}
        }
        text.push(c);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_in_quotes_is_no_parameter() {
        let instead = ["T", "-3", "N"].map(str::to_owned);
        let sql =
            "UPDATE t SET name = $3, \"$2\" = '$1 ''$2''' WHERE tenant_id = $1 AND no = -$2 RETURNING no";
        assert_eq!(
            replaced(sql, &instead),
            "UPDATE t SET name = N, \"$2\" = '$1 ''$2''' WHERE tenant_id = T AND no = --3 RETURNING no"
        );
        assert_eq!(highest_parameter(sql.as_bytes()), 3);
    }

    #[test]
    fn a_word_is_found_in_any_case() {
        assert!(holds(b"SELECT App.Tenant_id()", b"app.tenant_id") && holds(b"ab", b"ab"));
        assert!(!holds(b"a", b"ab") && !holds(b"ba", b"ab"));
    }
}
