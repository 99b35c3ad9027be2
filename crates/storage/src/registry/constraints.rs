//! The registry's constraints that use cases act on.

use stagesub_domain::error::Constraint;

/// Constraints by their names in the database, as far as a use case tells somebody of them. A test checks
/// that each exists.
pub const CONSTRAINTS: &[(&str, Constraint)] = &[
    ("tenants_subdomain_key", Constraint::TenantSubdomain),
    ("tenants_code_key", Constraint::TenantCode),
    ("codes_pkey", Constraint::TenantCode),
    ("users_email_key", Constraint::UserEmail),
    ("memberships_pkey", Constraint::Membership),
];
