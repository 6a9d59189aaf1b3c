"""charges that a client's own signed record holds and the database lacks"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "witnessed_charges",
        sa.Column("reservation_id", sa.String(160), primary_key=True),
        sa.Column("client_id", sa.String(64), nullable=False),
        sa.Column("run_id", sa.String(64), nullable=False),
        sa.Column("round_index", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("event_json", sa.Text(), nullable=False),
        sa.Column("told_at", sa.Float(), nullable=False),
    )
    op.create_index("ix_witnessed_charges_client_id", "witnessed_charges", ["client_id"])


def downgrade() -> None:
    op.drop_index("ix_witnessed_charges_client_id", "witnessed_charges")
    op.drop_table("witnessed_charges")
