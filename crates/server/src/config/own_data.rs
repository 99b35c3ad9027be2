//! Schemas of tenant data beside the platform's own, which the doctor is to judge as such.

use stagesub_storage::doctor::Expectations;

use super::{ConfigError, RawConfig};

/// Reads what a database of the platform holds on purpose: `STAGESUB_DATA_SCHEMAS` (`billing, crm`),
/// `STAGESUB_REFERENCE_TABLES` (`billing.currency`) and `STAGESUB_TRUSTED_ROLES` (`reporting`).
pub fn expectations(raw: &RawConfig) -> Result<Expectations, ConfigError> {
    let schemas: Vec<&str> = items(raw.stagesub_data_schemas.as_deref()).collect();
    let mut expected = Expectations::default();
    for schema in &schemas {
        expected = expected.data_schema(schema);
    }
    for table in items(raw.stagesub_reference_tables.as_deref()) {
        let (schema, name) = reference_table(&schemas, table)
            .map_err(|reason| ConfigError::malformed("STAGESUB_REFERENCE_TABLES", reason))?;
        expected = expected.reference_table(schema, name);
    }
    Ok(items(raw.stagesub_trusted_roles.as_deref()).fold(expected, Expectations::trusted_role))
}

/// A table as it is written, `schema.table`, or its name alone where there is one schema.
pub fn reference_table<'a>(schemas: &[&'a str], table: &'a str) -> Result<(&'a str, &'a str), String> {
    let of = |schema: &str| table.strip_prefix(schema).and_then(|rest| rest.strip_prefix('.'));
    if let Some((schema, name)) = schemas.iter().find_map(|schema| of(schema).map(|name| (*schema, name))) {
        return Ok((schema, name));
    }
    match schemas {
        [schema] => Ok((schema, table)),
        _ => Err(format!("{table} is in none of the schemas that are named; write it as schema.table")),
    }
}

fn items(text: Option<&str>) -> impl Iterator<Item = &str> {
    text.unwrap_or_default().split(',').map(str::trim).filter(|item| !item.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(schemas: &str, tables: &str) -> Result<Expectations, ConfigError> {
        let raw = RawConfig {
            stagesub_data_schemas: Some(schemas.to_owned()),
            stagesub_reference_tables: Some(tables.to_owned()),
            stagesub_trusted_roles: Some("reporting".to_owned()),
            ..RawConfig::default()
        };
        expectations(&raw)
    }

    #[test]
    fn lists_are_what_the_doctor_expects() {
        let wanted = Expectations::default()
            .data_schema("billing")
            .data_schema("crm")
            .reference_table("billing", "currency")
            .trusted_role("reporting");
        assert_eq!(read("billing, crm,", "billing.currency").unwrap(), wanted);
        assert_eq!(expectations(&RawConfig::default()).unwrap(), Expectations::default());
    }

    #[test]
    fn a_table_stands_in_a_schema_that_is_named() {
        assert!(read("billing", "currency").is_ok());
        for (schemas, table) in [("billing,crm", "currency"), ("", "billing.currency")] {
            assert!(matches!(read(schemas, table), Err(ConfigError::Malformed { .. })), "{schemas} {table}");
        }
    }
}
