// SPDX-License-Identifier: GPL-3.0-or-later
import { inTransaction } from "./database.mjs";
import { log } from "./log.mjs";

const AGENTS = 5;
const SERVICES_PER_AGENT = 4;
const AUDIT_EVENTS_PER_HEALTH_REPORT = 10;
const SETTING = "standin.seededRows";

const NUMBERS = "with recursive numbers(n) as (select 1 union all select n + 1 from numbers where n < :count)";
const CREATED_AT = "strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '-' || (:count - n) || ' seconds')";

function id(prefix) {
  return `'${prefix}_' || lower(hex(randomblob(12)))`;
}

function insertAgents(workspaceId) {
  return [
    `${NUMBERS} insert into agents (id, workspaceId, code, status, createdAt, updatedAt)
       select ${id("agt")}, :workspaceId, 'agent-' || n, 'ONLINE', ${CREATED_AT}, ${CREATED_AT} from numbers`,
    { count: AGENTS, workspaceId },
  ];
}

function insertServices(workspaceId) {
  return [
    `${NUMBERS} insert into capsule_services (id, workspaceId, agentId, code, version, status, createdAt, updatedAt)
       select ${id("svc")}, :workspaceId, agents.id, agents.code || '-service-' || n, '1.0.0', 'UP', ${CREATED_AT},
         ${CREATED_AT} from numbers cross join agents`,
    { count: SERVICES_PER_AGENT, workspaceId },
  ];
}

function insertAuditEvents(workspaceId, count) {
  return [
    `${NUMBERS} insert into audit_events
         (id, workspaceId, actorType, action, targetType, targetId, result, metadata, createdAt)
       select ${id("aud")}, :workspaceId, 'AGENT', 'service.reported', 'capsule_service', 'svc_' || (n % 20), 'SUCCESS',
       json_object('number', n, 'note', hex(randomblob(24))), ${CREATED_AT} from numbers`,
    { count, workspaceId },
  ];
}

function insertHealthReports(count) {
  return [
    `${NUMBERS}, services as (select id, row_number() over (order by id) - 1 as position from capsule_services)
       insert into health_reports (id, serviceId, status, createdAt)
       select ${id("hlr")}, services.id, 'UP', ${CREATED_AT}
       from numbers join services on services.position = n % (select count(*) from services)`,
    { count },
  ];
}

/**
 * Once per database: `rows` audit events, a tenth as many health reports, and the 5 agents and 20 services that they
 * speak of, in one transaction.
 */
export async function seedRows(store, rows) {
  if (rows === 0 || store.readSetting(SETTING) !== undefined) return;
  const workspaceId = store.workspaceId();
  const statements = [
    insertAgents(workspaceId),
    insertServices(workspaceId),
    insertAuditEvents(workspaceId, rows),
    insertHealthReports(Math.ceil(rows / AUDIT_EVENTS_PER_HEALTH_REPORT)),
  ];
  await inTransaction(store.database, () => {
    for (const [sql, values] of statements) store.database.prepare(sql).run(values);
    store.writeSetting(SETTING, String(rows));
  });
  log("info", "seeded", { auditEvents: rows });
}
