"""the newest record of its charges that each client signed and handed over, for budgets by data set"""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "signed_records",
        sa.Column("client_id", sa.String(64), primary_key=True),
        sa.Column("made_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("document", sa.LargeBinary(), nullable=False),
        sa.Column("told_at", sa.Float(), nullable=False),
    )


def downgrade() -> None:
    op.drop_table("signed_records")
