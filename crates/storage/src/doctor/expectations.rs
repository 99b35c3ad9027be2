//! What a database is expected to hold.

use crate::catalogue::TableName;
use crate::moves::plan::Contents;

/// The schema of the platform's own tenant data.
pub(super) const TENANT: &str = "tenant";

/// What is there on purpose: data schemas, tables without tenants, roles and schemas of somebody's own.
///
/// The default is a database of the platform and nothing beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expectations {
    pub(super) data: Vec<String>,
    pub(super) reference: Vec<TableName>,
    pub(super) roles: Vec<String>,
    pub(super) schemas: Vec<String>,
    pub(super) grants: Vec<(String, TableName, String)>,
    /// Who may read the sealed connection strings.
    pub(super) reader: Option<String>,
}

impl Default for Expectations {
    fn default() -> Self {
        Self {
            data: vec![TENANT.to_owned()],
            reference: Vec::new(),
            roles: Vec::new(),
            schemas: Vec::new(),
            grants: Vec::new(),
            reader: None,
        }
    }
}

impl Expectations {
    /// The schemas of tenant data, the platform's own included.
    #[must_use]
    pub fn data_schemas(&self) -> &[String] {
        &self.data
    }

    /// Tables in them that belong to no tenant.
    #[must_use]
    pub fn reference_tables(&self) -> &[TableName] {
        &self.reference
    }

    /// One more schema of tenant data: each of its tables is a tenant table. The application may read, insert and
    /// delete there, call its routines, and update every column but `tenant_id` where it was given the column.
    #[must_use]
    pub fn data_schema(mut self, schema: &str) -> Self {
        self.data.push(schema.to_owned());
        self
    }

    /// A table of a data schema that belongs to no tenant. The application may read it.
    #[must_use]
    pub fn reference_table(mut self, schema: &str, name: &str) -> Self {
        self.reference.push(TableName { schema: schema.to_owned(), name: name.to_owned() });
        self
    }

    /// A role of somebody's own, trusted with what it was given: its privileges and memberships are not judged.
    #[must_use]
    pub fn trusted_role(mut self, role: &str) -> Self {
        self.roles.push(role.to_owned());
        self
    }

    /// A schema beside the data that the application may use, with what is in it.
    #[must_use]
    pub fn open_schema(mut self, schema: &str) -> Self {
        self.schemas.push(schema.to_owned());
        self
    }

    /// A privilege on a table or sequence of a data schema that one of the platform's roles has on purpose, such as
    /// `("stagesub_app", "billing", "currency", "INSERT")`.
    #[must_use]
    pub fn grant(mut self, role: &str, schema: &str, object: &str, privilege: &str) -> Self {
        let object = TableName { schema: schema.to_owned(), name: object.to_owned() };
        self.grants.push((role.to_owned(), object, privilege.to_owned()));
        self
    }
}

impl Expectations {
    /// What tenants have in such a database, as far as it moves with them.
    #[must_use]
    pub fn contents(&self) -> Contents {
        Contents { schemas: self.data.clone(), reference_tables: self.reference.clone() }
    }

    /// The schemas of the platform, whichever of them a database has.
    pub(super) fn ours(&self) -> Vec<String> {
        ["registry", "app"].into_iter().map(str::to_owned).chain(self.data.iter().cloned()).collect()
    }
}
