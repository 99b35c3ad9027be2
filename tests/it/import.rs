//! Musicians from the files that an orchestra's office exports, over HTTP and on both placements.

use std::fmt::Write as _;

use serde_json::{Value, json};
use stagesub_tests::{Answer, Kept, Orchestra, TestPlatform};

const IMPORT: &str = "/api/v1/musicians/import";
const MUSICIANS: &str = "/api/v1/musicians";

/// `created`, `updated`, `unchanged`, `repeated` of an import that was taken.
fn taken(answer: &Answer) -> [u64; 4] {
    let body = answer.ok();
    assert_eq!(body["applied"], true, "{body}");
    ["created", "updated", "unchanged", "repeated"].map(|field| body[field].as_u64().unwrap())
}

/// Line and column of each refusal of an import that changed nothing.
fn refused(answer: &Answer) -> Vec<(u64, String)> {
    let body = answer.expect(422).json();
    assert_eq!(body["applied"], false, "{body}");
    marks(&body["refused"])
}

fn marks(refused: &Value) -> Vec<(u64, String)> {
    let mark = |row: &Value| {
        assert!(!row["reason"].as_str().unwrap().is_empty());
        (row["line"].as_u64().unwrap(), row["column"].as_str().unwrap_or("").to_owned())
    };
    refused.as_array().unwrap().iter().map(mark).collect()
}

async fn names(orchestra: &Orchestra) -> Vec<String> {
    let items = orchestra.admin.list_all(MUSICIANS).await;
    items
        .iter()
        .map(|item| format!("{} {}", item["firstName"].as_str().unwrap(), item["lastName"].as_str().unwrap()))
        .collect()
}

/// `text` as Windows-1252; every character of these tests has one byte there.
fn windows_1252(text: &str) -> Vec<u8> {
    text.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn offices_write_it_in_many_ways_and_all_say_the_same() {
    let platform = TestPlatform::start().await;
    let header = "Förnamn;Efternamn;E-post;Telefon;Instrument;Stämma;Språk;Anteckningar";
    let row =
        "Åsa;Öberg;asa@example.se;031-12 34 56;Violin;Tutti violin 2;svenska;\"Säger: \"\"hej\"\"; ringer\"";
    let swedish = format!("{header}\r\n{row}\r\n");
    let english = "first name,LAST NAME,email,phone,instrument,position,language,notes\n\
        Åsa,Öberg,asa@example.se,031-12 34 56,Violin,Tutti violin 2,sv,\"Säger: \"\"hej\"\"; ringer\"\n";
    let tabbed =
        english.replace("\"Säger: \"\"hej\"\"; ringer\"", "Säger: \"hej\"; ringer").replace(',', "\t");
    let files: Vec<(&str, Vec<u8>)> = vec![
        ("semicolons, UTF-8, CRLF", swedish.clone().into_bytes()),
        ("with a byte order mark", format!("\u{feff}{swedish}").into_bytes()),
        ("Windows-1252", windows_1252(&swedish)),
        ("commas, English", english.as_bytes().to_vec()),
        ("tabs", tabbed.into_bytes()),
        ("blank lines, no end of line", format!("\n;;;;;;;\n{header}\n\n{row}\n  \n").trim_end().into()),
    ];
    for kept in Kept::ALL {
        let theirs = platform.orchestra(kept, &format!("empty-{}", kept.as_str())).await;
        let ours = platform.orchestra(kept, &format!("files-{}", kept.as_str())).await;
        let mut first = None;
        for (name, file) in &files {
            let done = taken(&ours.admin.upload(IMPORT, file.clone()).await);
            let made = ours.admin.list_all(MUSICIANS).await;
            assert_eq!(made.len(), 1, "{name}");
            match &first {
                None => {
                    assert_eq!(done, [1, 0, 0, 0], "{name}");
                    assert_eq!(
                        (&made[0]["firstName"], &made[0]["lastName"]),
                        (&json!("Åsa"), &json!("Öberg"))
                    );
                    assert_eq!(made[0]["notes"], "Säger: \"hej\"; ringer");
                    assert_eq!(made[0]["qualifications"], json!([ours.id("POS", 5)]));
                    first = Some(made);
                }
                // The same said in another way changes nothing, to the last byte.
                Some(before) => {
                    assert_eq!(done, [0, 0, 1, 0], "{name}");
                    assert_eq!(&made, before, "{name}");
                }
            }
        }
        assert!(theirs.admin.list_all(MUSICIANS).await.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_bad_row_keeps_all_out_unless_the_good_ones_are_asked_for() {
    let platform = TestPlatform::start().await;
    for kept in Kept::ALL {
        let [ours, theirs] = platform.pair(kept).await;
        let file = "förnamn;efternamn;e-post;språk;stämma\n\
            Åsa;Öberg;asa@example.se;sv;\n\
            ;Ek;bo@example.se;;\n\
            Cilla;Dahl;not an address;;\n\
            \n\
            Åsa;Öberg;ASA@example.se;sv;\n\
            Eva;Fors;eva@example.se;klingonska;Nonsens\n\
            Gun;Hed;gun@example.se;en;Solotuba\n\
            Ivar;Jon;asa@example.se;sv;\n\
            för;många;celler@example.se;sv;;;;x\n";
        let before = platform.audit(&ours).await.len();
        let bad = refused(&ours.admin.upload(IMPORT, file).await);
        let expected = [(3, "förnamn"), (4, "e-post"), (7, "språk"), (9, "e-post"), (10, "")];
        let expected: Vec<_> = expected.into_iter().map(|(line, column)| (line, column.to_owned())).collect();
        assert_eq!(bad, expected);
        assert!(names(&ours).await.is_empty());
        assert_eq!(platform.audit(&ours).await.len(), before);
        assert_eq!(ours.admin.get("/api/v1/tenant").await.ok()["limits"]["musicians"]["used"], 0);

        let answer = ours.admin.upload("/api/v1/musicians/import?mode=valid", file).await;
        assert_eq!(taken(&answer), [2, 0, 0, 1]);
        assert_eq!(marks(&answer.json()["refused"]), expected);
        assert_eq!(names(&ours).await, ["Åsa Öberg", "Gun Hed"]);
        // What was refused used up no number that shows.
        let second = ours.admin.get(&ours.path("musicians", "MUS", 2)).await.ok();
        assert_eq!(second["qualifications"], json!([ours.id("POS", 38)]));
        assert_eq!(ours.admin.get("/api/v1/tenant").await.ok()["limits"]["musicians"]["used"], 2);
        let entries = platform.audit(&ours).await;
        assert_eq!((entries.len(), entries.last().unwrap().action.as_str()), (before + 1, "import"));

        // The same file again changes nothing, and so writes nothing.
        let rows = ours.admin.list_all(MUSICIANS).await;
        assert_eq!(
            taken(&ours.admin.upload("/api/v1/musicians/import?mode=valid", file).await),
            [0, 0, 2, 1]
        );
        assert_eq!(ours.admin.list_all(MUSICIANS).await, rows);
        assert_eq!(platform.audit(&ours).await.len(), before + 1);
        ours.admin.upload("/api/v1/musicians/import?mode=some", file).await.invalid(&[("mode", "enum")]);
        assert!(names(&theirs).await.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_known_address_is_brought_up_to_date_and_an_empty_cell_says_nothing() {
    let platform = TestPlatform::start().await;
    for kept in Kept::ALL {
        let [ours, theirs] = platform.pair(kept).await;
        let known = json!({ "firstName": "Åsa", "lastName": "Berg", "email": "asa@example.se", "phone": "031", "notes": "Kvar" });
        for orchestra in [&ours, &theirs] {
            orchestra.admin.post(MUSICIANS, &known).await.expect(201);
        }
        let file = "förnamn,efternamn,e-post,telefon,anteckningar\nÅsa,Öberg,Asa@Example.se,0708,\n";
        assert_eq!(taken(&ours.admin.upload(IMPORT, file).await), [0, 1, 0, 0]);
        let musician = ours.admin.get(&ours.path("musicians", "MUS", 1)).await.ok();
        assert_eq!(
            (&musician["lastName"], &musician["phone"], &musician["notes"]),
            (&json!("Öberg"), &json!("0708"), &json!("Kvar"))
        );
        // An archived one is not brought back by a file.
        ours.admin.delete(&ours.path("musicians", "MUS", 1)).await.expect(204);
        assert_eq!(refused(&ours.admin.upload(IMPORT, file).await), [(2, "e-post".to_owned())]);
        assert_eq!(names(&theirs).await, ["Åsa Berg"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_such_file_is_told_what_it_lacks() {
    let platform = TestPlatform::start().await;
    let [ours, theirs] = platform.pair(Kept::Shared).await;
    let files: [(&str, &[u8], &str); 5] = [
        ("nothing", b"", "required"),
        ("blank", b"\n\n  \n", "required"),
        ("a workbook", b"PK\x03\x04\x14\x00\x06\x00\x08\x00\x00\x00!\x00", "format"),
        ("no address", "förnamn;efternamn\nÅsa;Öberg\n".as_bytes(), "missing_columns"),
        ("twice", b"firstname,lastname,email,mail\nA,B,a@b.se,c@d.se\n", "repeated"),
    ];
    for (name, file, rule) in files {
        let problem = ours.admin.upload(IMPORT, file.to_vec()).await.problem(400, "invalid-input");
        assert_eq!(
            (&problem["errors"][0]["field"], &problem["errors"][0]["rule"]),
            (&json!("file"), &json!(rule)),
            "{name}"
        );
    }
    // Columns nobody knows are named, and the rest is taken.
    let file = "förnamn,efternamn,e-post,Skostorlek\nÅsa,Öberg,asa@example.se,38\n";
    let answer = ours.admin.upload(IMPORT, file).await;
    assert_eq!(taken(&answer), [1, 0, 0, 0]);
    assert_eq!(answer.json()["ignoredColumns"], json!(["Skostorlek"]));
    // As a browser's form sends it.
    let form = "--x\r\nContent-Disposition: form-data; name=\"file\"; filename=\"m.csv\"\r\nContent-Type: text/csv\r\n\r\n\
        förnamn,efternamn,e-post\nBo,Ek,bo@example.se\n\r\n--x--\r\n";
    let content_type = "multipart/form-data; boundary=x";
    let answer = ours.admin.send(http::Method::POST, IMPORT, Some(content_type), form.into()).await;
    assert_eq!(taken(&answer), [1, 0, 0, 0]);
    assert_eq!(names(&ours).await, ["Åsa Öberg", "Bo Ek"]);
    assert!(names(&theirs).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_rows_are_taken_in_one_transaction_and_again_without_change() {
    let platform = TestPlatform::start().await;
    for kept in Kept::ALL {
        let [ours, theirs] = platform.pair(kept).await;
        let mut file = String::from("förnamn;efternamn;e-post;telefon;stämma;anteckningar\n");
        for n in 1..=10_000 {
            writeln!(file, "Åsa {n};Öberg;m{n}@example.se;031-{n};Tutti violin 1;Rad {n}").unwrap();
        }
        // A last row that is wrong keeps 10,000 out.
        let spoilt = format!("{file};;nobody;;;\n");
        let bad = refused(&ours.admin.upload(IMPORT, spoilt).await);
        assert!(bad.iter().all(|(line, _)| *line == 10_002), "{bad:?}");
        assert_eq!(platform.count(&ours, "tenant.musician").await, 0);

        assert_eq!(taken(&ours.admin.upload(IMPORT, file.clone()).await), [10_000, 0, 0, 0]);
        assert_eq!(platform.count(&ours, "tenant.musician").await, 10_000);
        assert_eq!(platform.count(&ours, "tenant.musician_qualification").await, 10_000);
        let last = ours.admin.get(&ours.path("musicians", "MUS", 10_000)).await.ok();
        assert_eq!(last["id"], ours.id("MUS", 10_000));
        assert_eq!(taken(&ours.admin.upload(IMPORT, file).await), [0, 0, 10_000, 0]);
        assert_eq!(ours.admin.get("/api/v1/tenant").await.ok()["limits"]["musicians"]["used"], 10_000);
        assert_eq!(platform.count(&theirs, "tenant.musician").await, 0);
    }
}
