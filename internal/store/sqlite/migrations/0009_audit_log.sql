-- The audit log without what belongs to changes of actions, by time.
CREATE INDEX audit_log ON audit (at, seq, kind) WHERE action IS NULL;

-- The first application may do everything; now that includes this.
UPDATE applications SET permissions = json_insert(permissions, '$[#]', 'AuditLog.Read.All')
WHERE created = (SELECT min(created) FROM applications) AND permissions LIKE '%"Cordon.Administer"%';
