"""what became of each update, and the server optimiser's memory"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("rounds") as batch_op:
        batch_op.add_column(
            sa.Column("optimizer_sha256", sa.String(length=64), nullable=False, server_default="")
        )
    with op.batch_alter_table("contributions") as batch_op:
        batch_op.add_column(sa.Column("change_norm", sa.Float(), nullable=True))
        batch_op.add_column(sa.Column("share", sa.Float(), nullable=True))
        batch_op.add_column(sa.Column("outcome", sa.String(length=16), nullable=False, server_default=""))
        batch_op.add_column(sa.Column("compression_error", sa.Float(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("contributions") as batch_op:
        for name in ("compression_error", "outcome", "share", "change_norm"):
            batch_op.drop_column(name)
    with op.batch_alter_table("rounds") as batch_op:
        batch_op.drop_column("optimizer_sha256")
