"""A page of streamlit's."""
import streamlit as st

st.write("hello")
