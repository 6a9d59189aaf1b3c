"""who leads the database, under a fencing token that only grows"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

SQLITE = (
    """
    CREATE TRIGGER leases_no_delete BEFORE DELETE ON leases
    BEGIN SELECT RAISE(ABORT, 'leases only grows: no delete'); END
    """,
    """
    CREATE TRIGGER leases_no_less BEFORE UPDATE ON leases
    WHEN NEW.name IS NOT OLD.name OR NEW.token < OLD.token
    BEGIN SELECT RAISE(ABORT, 'leases only grows: a token is never given out again'); END
    """,
    """
    CREATE TRIGGER leases_no_replace BEFORE INSERT ON leases
    WHEN EXISTS (SELECT 1 FROM leases WHERE name = NEW.name)
    BEGIN SELECT RAISE(ABORT, 'leases only grows: no replacement'); END
    """,
)
POSTGRESQL = (
    """
    CREATE FUNCTION motet_no_older_token() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
      IF NEW.name <> OLD.name OR NEW.token < OLD.token
      THEN RAISE EXCEPTION 'leases only grows: a token is never given out again';
      END IF;
      RETURN NEW;
    END $$
    """,
    "CREATE TRIGGER leases_no_delete BEFORE DELETE ON leases FOR EACH ROW EXECUTE FUNCTION motet_refuse()",
    "CREATE TRIGGER leases_no_truncate BEFORE TRUNCATE ON leases "
    "FOR EACH STATEMENT EXECUTE FUNCTION motet_refuse()",
    "CREATE TRIGGER leases_no_less BEFORE UPDATE ON leases FOR EACH ROW EXECUTE FUNCTION motet_no_older_token()",
)


def upgrade() -> None:
    op.create_table(
        "leases",
        sa.Column("name", sa.String(length=16), nullable=False),
        sa.Column("token", sa.BigInteger(), nullable=False),
        sa.Column("place", sa.String(length=128), nullable=False),
        sa.Column("host", sa.String(length=255), nullable=False),
        sa.Column("home", sa.Text(), nullable=False),
        sa.Column("taken_at", sa.Float(), nullable=False),
        sa.Column("lease_until", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    for statement in POSTGRESQL if op.get_bind().dialect.name == "postgresql" else SQLITE:
        op.execute(statement)


def downgrade() -> None:
    op.drop_table("leases")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION motet_no_older_token()")
