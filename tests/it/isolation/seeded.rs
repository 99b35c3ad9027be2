//! A lab whose two tenants have the same rows, at least one in every table.

use stagesub_storage::prove::orchestra::seed;
use stagesub_tenancy::Access;

use crate::tenant_tx::lab::Lab;

pub(crate) async fn lab() -> Lab {
    let lab = Lab::start(4).await;
    let units = lab.units();
    for scope in &lab.scopes {
        let mut unit = units.begin(scope, Access::Write).await.expect("the tenant is served");
        seed(&mut *unit).await.expect("a new tenant has no rows");
        unit.commit().await.expect("what was written is kept");
    }
    lab
}
