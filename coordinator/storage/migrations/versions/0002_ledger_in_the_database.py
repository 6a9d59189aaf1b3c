"""ledger in the database: entries and charges that only grow, a guard on budgets, one lock for writers

A later revision that makes one of these tables anew (batch_alter_table on SQLite) loses its triggers and has to make
them again; tests/contract/test_store.py fails if it does not.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

NO_PREVIOUS = "0" * 64

SQLITE = (
    """
    CREATE TRIGGER ledger_entries_no_update BEFORE UPDATE ON ledger_entries
    BEGIN SELECT RAISE(ABORT, 'ledger_entries only grows: no update'); END
    """,
    """
    CREATE TRIGGER ledger_entries_no_delete BEFORE DELETE ON ledger_entries
    BEGIN SELECT RAISE(ABORT, 'ledger_entries only grows: no delete'); END
    """,
    f"""
    CREATE TRIGGER ledger_entries_in_order BEFORE INSERT ON ledger_entries
    WHEN NEW.sequence <> (SELECT COALESCE(MAX(sequence) + 1, 0) FROM ledger_entries)
      OR NEW.previous <> COALESCE(
        (SELECT sha256 FROM ledger_entries ORDER BY sequence DESC LIMIT 1), '{NO_PREVIOUS}')
    BEGIN SELECT RAISE(ABORT, 'ledger_entries only grows: an entry follows the last one'); END
    """,
    """
    CREATE TRIGGER privacy_events_no_delete BEFORE DELETE ON privacy_events
    BEGIN SELECT RAISE(ABORT, 'privacy_events only grows: no delete'); END
    """,
    """
    CREATE TRIGGER privacy_events_settle_only BEFORE UPDATE ON privacy_events
    WHEN NEW.reservation_id IS NOT OLD.reservation_id OR NEW.run_id IS NOT OLD.run_id
      OR NEW.round_index IS NOT OLD.round_index OR NEW.attempt IS NOT OLD.attempt
      OR NEW.client_id IS NOT OLD.client_id OR NEW.event_json IS NOT OLD.event_json
      OR NEW.reserved_at IS NOT OLD.reserved_at
      OR (NEW.state IS NOT OLD.state AND NOT (OLD.state = 'RESERVED' AND NEW.state = 'SETTLED'))
    BEGIN SELECT RAISE(ABORT, 'privacy_events only grows: a charge can be settled and nothing else'); END
    """,
    # INSERT OR REPLACE would delete without asking the trigger above.
    """
    CREATE TRIGGER privacy_events_no_replace BEFORE INSERT ON privacy_events
    WHEN EXISTS (SELECT 1 FROM privacy_events WHERE reservation_id = NEW.reservation_id)
    BEGIN SELECT RAISE(ABORT, 'privacy_events only grows: no replacement'); END
    """,
    """
    CREATE TRIGGER budgets_no_delete BEFORE DELETE ON budgets
    BEGIN SELECT RAISE(ABORT, 'budgets only grows: no delete'); END
    """,
    """
    CREATE TRIGGER budgets_no_less BEFORE UPDATE ON budgets
    WHEN NEW.client_id IS NOT OLD.client_id OR NEW.charges < OLD.charges
    BEGIN SELECT RAISE(ABORT, 'budgets only grows: no charge is taken back'); END
    """,
    """
    CREATE TRIGGER budgets_no_replace BEFORE INSERT ON budgets
    WHEN EXISTS (SELECT 1 FROM budgets WHERE client_id = NEW.client_id)
    BEGIN SELECT RAISE(ABORT, 'budgets only grows: no replacement'); END
    """,
)

POSTGRESQL = (
    """
    CREATE FUNCTION motet_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN RAISE EXCEPTION USING MESSAGE = TG_TABLE_NAME || ' only grows: no ' || lower(TG_OP); END $$
    """,
    f"""
    CREATE FUNCTION motet_ledger_in_order() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE
      expected bigint;
      last_hash text;
    BEGIN
      SELECT sequence + 1, sha256 INTO expected, last_hash FROM ledger_entries ORDER BY sequence DESC LIMIT 1;
      IF NEW.sequence <> COALESCE(expected, 0) OR NEW.previous <> COALESCE(last_hash, '{NO_PREVIOUS}') THEN
        RAISE EXCEPTION 'ledger_entries only grows: an entry follows the last one';
      END IF;
      RETURN NEW;
    END $$
    """,
    """
    CREATE FUNCTION motet_settle_only() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
      IF (NEW.reservation_id, NEW.run_id, NEW.round_index, NEW.attempt, NEW.client_id, NEW.event_json, NEW.reserved_at)
        IS DISTINCT FROM
        (OLD.reservation_id, OLD.run_id, OLD.round_index, OLD.attempt, OLD.client_id, OLD.event_json, OLD.reserved_at)
        OR (NEW.state <> OLD.state AND NOT (OLD.state = 'RESERVED' AND NEW.state = 'SETTLED'))
      THEN RAISE EXCEPTION 'privacy_events only grows: a charge can be settled and nothing else';
      END IF;
      RETURN NEW;
    END $$
    """,
    """
    CREATE FUNCTION motet_no_less() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
      IF NEW.client_id <> OLD.client_id OR NEW.charges < OLD.charges
      THEN RAISE EXCEPTION 'budgets only grows: no charge is taken back';
      END IF;
      RETURN NEW;
    END $$
    """,
    "CREATE TRIGGER ledger_entries_no_change BEFORE UPDATE OR DELETE ON ledger_entries "
    "FOR EACH ROW EXECUTE FUNCTION motet_refuse()",
    "CREATE TRIGGER ledger_entries_no_truncate BEFORE TRUNCATE ON ledger_entries "
    "FOR EACH STATEMENT EXECUTE FUNCTION motet_refuse()",
    "CREATE TRIGGER ledger_entries_in_order BEFORE INSERT ON ledger_entries "
    "FOR EACH ROW EXECUTE FUNCTION motet_ledger_in_order()",
    "CREATE TRIGGER privacy_events_no_delete BEFORE DELETE ON privacy_events "
    "FOR EACH ROW EXECUTE FUNCTION motet_refuse()",
    "CREATE TRIGGER privacy_events_no_truncate BEFORE TRUNCATE ON privacy_events "
    "FOR EACH STATEMENT EXECUTE FUNCTION motet_refuse()",
    "CREATE TRIGGER privacy_events_settle_only BEFORE UPDATE ON privacy_events "
    "FOR EACH ROW EXECUTE FUNCTION motet_settle_only()",
    "CREATE TRIGGER budgets_no_delete BEFORE DELETE ON budgets FOR EACH ROW EXECUTE FUNCTION motet_refuse()",
    "CREATE TRIGGER budgets_no_truncate BEFORE TRUNCATE ON budgets "
    "FOR EACH STATEMENT EXECUTE FUNCTION motet_refuse()",
    "CREATE TRIGGER budgets_no_less BEFORE UPDATE ON budgets FOR EACH ROW EXECUTE FUNCTION motet_no_less()",
)


def upgrade() -> None:
    op.create_table(
        "ledger_entries",
        sa.Column("sequence", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("identity", sa.String(length=64), nullable=False),
        sa.Column("leaf", sa.LargeBinary(), nullable=False),
        sa.Column("previous", sa.String(length=64), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("sequence"),
        sa.UniqueConstraint("identity", name="uq_ledger_entries_identity"),
    )
    op.create_table(
        "budgets",
        sa.Column("client_id", sa.String(length=64), nullable=False),
        sa.Column("charges", sa.BigInteger(), nullable=False),
        sa.Column("accounted", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("charges <= accounted", name="every_charge_was_accounted_for"),
        sa.PrimaryKeyConstraint("client_id"),
    )
    op.create_table(
        "write_lock",
        sa.Column("name", sa.String(length=16), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.execute("INSERT INTO write_lock (name) VALUES ('writers')")
    op.execute(
        "INSERT INTO budgets (client_id, charges, accounted) "
        "SELECT client_id, COUNT(*), COUNT(*) FROM privacy_events GROUP BY client_id"
    )
    for statement in POSTGRESQL if op.get_bind().dialect.name == "postgresql" else SQLITE:
        op.execute(statement)


def downgrade() -> None:
    op.drop_table("write_lock")
    op.drop_table("budgets")
    op.drop_table("ledger_entries")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP TRIGGER privacy_events_no_delete ON privacy_events")
        op.execute("DROP TRIGGER privacy_events_no_truncate ON privacy_events")
        op.execute("DROP TRIGGER privacy_events_settle_only ON privacy_events")
        for function in ("motet_refuse", "motet_ledger_in_order", "motet_settle_only", "motet_no_less"):
            op.execute(f"DROP FUNCTION {function}()")
    else:
        for trigger in ("no_delete", "settle_only", "no_replace"):
            op.execute(f"DROP TRIGGER privacy_events_{trigger}")
