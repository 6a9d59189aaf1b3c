"""how adapters do on examples that clients keep out of training"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "scores",
        sa.Column("run_id", sa.String(64), sa.ForeignKey("runs.run_id"), primary_key=True),
        sa.Column("rounds_done", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("client_id", sa.String(64), primary_key=True),
        sa.Column("loss", sa.Float(), nullable=False),
        sa.Column("accuracy", sa.Float()),
        sa.Column("num_examples", sa.Integer(), nullable=False),
    )


def downgrade() -> None:
    op.drop_table("scores")
