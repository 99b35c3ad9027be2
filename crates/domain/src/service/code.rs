//! Proposing a tenant's code from its name.

use stagesub_tenancy::TenantCode;

/// Codes that suit a name, the most natural first: its first three letters, its initials, four to six letters,
/// and then its first letters with a number. None when the name has no letter or digit to begin from.
pub fn proposals(name: &str) -> impl Iterator<Item = TenantCode> {
    let folded = fold(name);
    let letters: String = folded.concat().chars().take(TenantCode::MAX_LEN).collect();
    let initials: String =
        folded.iter().filter_map(|word| word.chars().next()).take(TenantCode::MAX_LEN).collect();
    let prefix = |length: usize| letters.chars().take(length).collect::<String>();
    let mut candidates = vec![prefix(3), initials, prefix(4), prefix(5), prefix(6), prefix(2)];
    let (stem, short) = (prefix(3), prefix(2));
    if !stem.is_empty() {
        candidates.extend((2..=999).map(|number| format!("{stem}{number}")));
        candidates.extend((1000..=9999).map(|number| format!("{short}{number}")));
    }
    candidates.into_iter().filter_map(|candidate| candidate.parse().ok())
}

/// Words of `A-Z0-9`; letters of other Latin alphabets become the plain one that people would write.
fn fold(name: &str) -> Vec<String> {
    name.split(|c: char| !c.is_alphanumeric())
        .map(|word| word.chars().flat_map(char::to_uppercase).filter_map(plain).collect::<String>())
        .filter(|word| !word.is_empty())
        .collect()
}

fn plain(letter: char) -> Option<char> {
    match letter {
        'A'..='Z' | '0'..='9' => Some(letter),
        'À' | 'Á' | 'Â' | 'Ã' | 'Ä' | 'Å' | 'Æ' => Some('A'),
        'Ç' | 'Č' | 'Ć' => Some('C'),
        'Ð' | 'Đ' => Some('D'),
        'È' | 'É' | 'Ê' | 'Ë' => Some('E'),
        'Ì' | 'Í' | 'Î' | 'Ï' => Some('I'),
        'Ł' => Some('L'),
        'Ñ' | 'Ń' => Some('N'),
        'Ò' | 'Ó' | 'Ô' | 'Õ' | 'Ö' | 'Ø' | 'Œ' => Some('O'),
        'Š' | 'Ś' => Some('S'),
        'Ù' | 'Ú' | 'Û' | 'Ü' => Some('U'),
        'Ý' => Some('Y'),
        'Ž' | 'Ż' | 'Ź' => Some('Z'),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn first(name: &str, count: usize) -> Vec<String> {
        proposals(name).take(count).map(|code| code.to_string()).collect()
    }

    #[test]
    fn the_first_proposals_are_what_people_would_choose() {
        assert_eq!(first("Göteborgs Symfoniker", 3), ["GOT", "GS", "GOTE"]);
        assert_eq!(first("Åbo stadsorkester", 2), ["ABO", "AS"]);
        assert_eq!(first("1:a Örebro", 2), ["1AO", "1AO"]);
    }

    #[test]
    fn names_of_the_same_beginning_never_run_out() {
        assert!(proposals("Malmö").count() > 9_000);
        assert_eq!(first("Malmö", 6).last().map(String::as_str), Some("MAL2"));
    }

    #[test]
    fn a_name_without_letters_gives_none() {
        assert_eq!(proposals("— ♪ —").count(), 0);
        assert_eq!(proposals("").count(), 0);
    }

    proptest! {
        #[test]
        fn every_proposal_is_a_code(name in "\\PC{0,60}") {
            for code in proposals(&name).take(40) {
                prop_assert!(code.as_str().parse::<TenantCode>().is_ok());
            }
        }
    }
}
