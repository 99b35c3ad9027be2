//! The texts of the mails that a new orchestra starts with. It may rewrite them.

use crate::language::Language;
use crate::starter::{MailTemplate, MailType};

/// What may stand between `{{` and `}}` in a mail.
pub const VARIABLES: [&str; 13] = [
    "firstName",
    "lastName",
    "orchestraName",
    "projectName",
    "instrument",
    "position",
    "startDate",
    "weekNumber",
    "rehearsalSchedule",
    "concertInfo",
    "projectNotes",
    "responseLink",
    "respondBy",
];

pub(super) fn template(mail_type: MailType, language: Language) -> MailTemplate {
    let (subject, body) = text(mail_type, language);
    MailTemplate { mail_type, language, subject: subject.to_owned(), body: body.to_owned() }
}

#[expect(clippy::too_many_lines, reason = "texts, not logic")]
const fn text(mail_type: MailType, language: Language) -> (&'static str, &'static str) {
    match (mail_type, language) {
        (MailType::Request, Language::Sv) => (
            "Förfrågan: {{position}} ({{instrument}}) i {{projectName}}, vecka {{weekNumber}}",
            "Hej {{firstName}}!

{{orchestraName}} undrar om du vill och kan spela {{position}} ({{instrument}}) i {{projectName}}, \
med första dag {{startDate}} (vecka {{weekNumber}}).

Repetitioner:
{{rehearsalSchedule}}

Konserter:
{{concertInfo}}

{{projectNotes}}

Svara ja eller nej här, senast {{respondBy}}:
{{responseLink}}

Länken är personlig. Har vi inget svar då går frågan vidare till någon annan.

Vänliga hälsningar
{{orchestraName}}
",
        ),
        (MailType::Request, Language::En) => (
            "Request: {{position}} ({{instrument}}) in {{projectName}}, week {{weekNumber}}",
            "Dear {{firstName}},

{{orchestraName}} would like to ask whether you can play {{position}} ({{instrument}}) in {{projectName}}, \
which begins on {{startDate}} (week {{weekNumber}}).

Rehearsals:
{{rehearsalSchedule}}

Concerts:
{{concertInfo}}

{{projectNotes}}

Please answer yes or no here, by {{respondBy}}:
{{responseLink}}

The link is personal. If we have not heard from you by then, we will ask somebody else.

Kind regards,
{{orchestraName}}
",
        ),
        (MailType::Reminder, Language::Sv) => (
            "Påminnelse: {{position}} ({{instrument}}) i {{projectName}}",
            "Hej {{firstName}}!

Vi har ännu inte fått ditt svar på om du kan spela {{position}} ({{instrument}}) i {{projectName}}, \
med första dag {{startDate}} (vecka {{weekNumber}}).

Svara ja eller nej här, senast {{respondBy}}:
{{responseLink}}

Även ett nej är till hjälp: då kan vi fråga nästa.

Vänliga hälsningar
{{orchestraName}}
",
        ),
        (MailType::Reminder, Language::En) => (
            "Reminder: {{position}} ({{instrument}}) in {{projectName}}",
            "Dear {{firstName}},

We have not yet heard whether you can play {{position}} ({{instrument}}) in {{projectName}}, \
which begins on {{startDate}} (week {{weekNumber}}).

Please answer yes or no here, by {{respondBy}}:
{{responseLink}}

A no helps us too: then we can ask the next person.

Kind regards,
{{orchestraName}}
",
        ),
        (MailType::Confirmation, Language::Sv) => (
            "Bekräftelse: {{position}} ({{instrument}}) i {{projectName}}",
            "Hej {{firstName}}!

Tack för ditt ja. Du är nu bokad som {{position}} ({{instrument}}) i {{projectName}}, \
med första dag {{startDate}} (vecka {{weekNumber}}).

Repetitioner:
{{rehearsalSchedule}}

Konserter:
{{concertInfo}}

{{projectNotes}}

Får du förhinder ber vi dig höra av dig så snart som möjligt.

Varmt välkommen!
{{orchestraName}}
",
        ),
        (MailType::Confirmation, Language::En) => (
            "Confirmation: {{position}} ({{instrument}}) in {{projectName}}",
            "Dear {{firstName}},

Thank you for your yes. You are booked as {{position}} ({{instrument}}) in {{projectName}}, \
which begins on {{startDate}} (week {{weekNumber}}).

Rehearsals:
{{rehearsalSchedule}}

Concerts:
{{concertInfo}}

{{projectNotes}}

Should anything come up, please tell us as soon as you can.

We look forward to playing with you.
{{orchestraName}}
",
        ),
        (MailType::PositionFilled, Language::Sv) => (
            "Platsen är tillsatt: {{position}} ({{instrument}}) i {{projectName}}",
            "Hej {{firstName}}!

Platsen som {{position}} ({{instrument}}) i {{projectName}} (vecka {{weekNumber}}) är nu tillsatt, \
så du behöver inte svara på vår förfrågan.

Tack för att du finns med på vår lista; vi hör gärna av oss igen.

Vänliga hälsningar
{{orchestraName}}
",
        ),
        (MailType::PositionFilled, Language::En) => (
            "The position is filled: {{position}} ({{instrument}}) in {{projectName}}",
            "Dear {{firstName}},

The position of {{position}} ({{instrument}}) in {{projectName}} (week {{weekNumber}}) has been filled, \
so there is no need to answer our request.

Thank you for being on our list; we hope to ask you again.

Kind regards,
{{orchestraName}}
",
        ),
    }
}
