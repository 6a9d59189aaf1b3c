"""who submitted a run, and when a failed one was let go on"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("runs") as batch_op:
        batch_op.add_column(
            sa.Column("submitted_by", sa.String(length=80), nullable=False, server_default="")
        )
        batch_op.add_column(sa.Column("resumed_at", sa.Float(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("runs") as batch_op:
        for name in ("resumed_at", "submitted_by"):
            batch_op.drop_column(name)
